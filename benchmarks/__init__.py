"""Speed and quality, side by side with common alternatives."""
