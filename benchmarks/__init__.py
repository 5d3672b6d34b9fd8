"""Speed and quality, side by side with what users use today."""
