"""Models that only sentence-transformers runs."""
