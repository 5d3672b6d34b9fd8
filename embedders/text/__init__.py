"""Text -> token ids, and which token vectors make up the vector of a span."""
