"""Pure decisions of the planner: what a model's answer means as a graph."""
