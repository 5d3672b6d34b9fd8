"""Ways to run a pass that pay on a GPU alone; where one cannot run, the pass goes on without it."""
