"""What an index stores of a chunk and a search compares: one module a signal; its name is the signal's ``kind``."""
