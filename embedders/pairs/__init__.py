"""Pairs of texts -> scores."""
