"""Compare orders of execution on random and on real graphs, with the scheduler's own decisions."""
