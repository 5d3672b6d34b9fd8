"""qdrant-client's models -> the engine's, and back."""
