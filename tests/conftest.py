"""Fixtures of all tests: `support/` starts the real servers."""

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

settings.register_profile("here", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("here")

pytest_plugins = ["support.nats", "support.postgres", "support.system"]


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Commands that a test runs inside its process set variables and configure logs: the next test shall not see it."""
    before, logs = dict(os.environ), structlog.get_config()
    yield
    structlog.configure(**logs)
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)
