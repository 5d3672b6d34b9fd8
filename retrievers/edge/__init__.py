"""qdrant_client's interface over Qdrant Edge."""
