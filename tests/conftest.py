"""Fixtures of all tests: `support/` starts the real servers."""

from hypothesis import settings

settings.register_profile("here", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("here")

pytest_plugins = ["support.nats", "support.postgres", "support.system"]
