"""Vectors and Qdrant, and the way of a query."""
