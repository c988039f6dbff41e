"""Pages of the web for tasks on lane `tool.web`; off unless hosts are allowed."""
