"""Answers, and their sources shown in the documents."""
