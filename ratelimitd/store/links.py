"""The connections to one server that are kept between calls.

Rules:
- The last one that was used is used first, so that those too many grow old.
- One that is not good any more is closed when it is met; a new one is dialled in its place.
"""

import asyncio

from ratelimitd.errors import StoreUnavailable
from ratelimitd.store.address import Endpoint, StoreAddress
from ratelimitd.store.dial import dial
from ratelimitd.store.link import StoreLink

# A connection that could not be made is tried once more: a proxy may have moved on.
MAX_DIALS = 2
REDIAL_PAUSE_S = 0.01
# Closing waits for the peer's part of a TLS shutdown at most this long.
CLOSE_TIMEOUT_S = 1.0


class Links:
    """Connections to `endpoint` that nobody uses at the moment."""

    def __init__(self, address: StoreAddress, endpoint: Endpoint) -> None:
        """Keep none yet."""
        self._address = address
        self._endpoint = endpoint
        self._idle: list[StoreLink] = []
        self._is_closed = False

    def ready(self) -> StoreLink | None:
        """Take a kept connection that is good."""
        while self._idle:
            link = self._idle.pop()
            if link.is_ready:
                return link
            link.hang_up()
        return None

    async def dial(self) -> StoreLink:
        """Make a connection; the caller bounds the time. Raises StoreUnavailable."""
        for _ in range(MAX_DIALS - 1):
            try:
                return await dial(self._address, self._endpoint)
            except StoreUnavailable:
                await asyncio.sleep(REDIAL_PAUSE_S)
        return await dial(self._address, self._endpoint)

    def put_back(self, link: StoreLink, *, is_good: bool) -> None:
        """Keep a connection that was used, if it is good for more."""
        if is_good and not self._is_closed:
            self._idle.append(link)
        else:
            link.hang_up()

    def hang_up(self) -> None:
        """Close what is kept: it may lead to where nobody answers any more."""
        while self._idle:
            self._idle.pop().hang_up()

    async def close(self) -> None:
        """Close what is kept, and from now on what comes back.

        Each may wait for its server; together they wait as long as one.
        """
        self._is_closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*(link.close(CLOSE_TIMEOUT_S) for link in idle))
