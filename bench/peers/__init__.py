"""Rivals on the same graphs: each in an environment of its own, tuned as its documentation advises."""
