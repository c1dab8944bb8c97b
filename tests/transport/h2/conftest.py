"""The shell runs on uvloop, as the daemon does."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the only loop that these tests run on."""
    return {"uvloop": uvloop.new_event_loop}
