"""Pure decisions of the agent: what is said, what fits, what an answer means, what comes next."""
