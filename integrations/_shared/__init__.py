"""The shared part of both frameworks' classes. Imports neither framework."""
