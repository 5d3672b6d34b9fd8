"""What the classes of both frameworks share. Imports neither framework."""
