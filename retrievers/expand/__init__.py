"""A query -> the texts that are searched with."""
