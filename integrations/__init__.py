"""Thin classes of the frameworks, one package each."""
