"""Documents in: chunked, situated, embedded and written to a collection."""
