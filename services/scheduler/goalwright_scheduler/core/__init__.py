"""Pure decisions of the scheduler: states in, frozen decisions out. No clock, IO or randomness."""
