"""Applications on the official classes of each framework, and the same ones on situate's."""
