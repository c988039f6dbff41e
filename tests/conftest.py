"""Fixtures of all tests: `support/` starts the real servers."""

pytest_plugins = ["support.nats", "support.postgres", "support.system"]
