"""Applications that people start: the chat application."""
