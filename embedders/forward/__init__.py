"""Token ids -> token vectors: the forward passes, and the choice of the fastest one."""
