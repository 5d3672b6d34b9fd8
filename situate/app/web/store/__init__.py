"""What an application stores: documents, their files and index, conversations."""
