"""Programs to start from. `python -m examples.demo` shows every part at work."""
