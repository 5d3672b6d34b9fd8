"""Where Qdrant runs: the embedded engine, a server or a cluster."""
