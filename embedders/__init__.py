"""Text and spans -> vectors. The only room that imports torch."""
