"""The interface of `QdrantClient` over an embedded store, in four parts."""
