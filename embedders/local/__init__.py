"""One device, many callers: the encoder of this machine, its scheduler, threads and processes."""
