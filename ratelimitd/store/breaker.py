"""The circuit breaker: after a few failures in a row nobody waits for a store that is away.

Rules:
- Closed: calls go through. Open: StoreUnavailable at once, until a probe found the store answering.
- Only silence opens it (no connection, no reply in time, still loading): a store that answers with
  an error costs nobody time.
- A probe runs each PROBE_INTERVAL_S and waits PROBE_TIMEOUT_S, so calls go through again within a
  second of the store's return.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from ratelimitd.defects import DefectLog
from ratelimitd.errors import StoreError, StoreUnavailable

# One slow fork for a snapshot, or one connection that a proxy cut, is no outage; three are.
FAILURES_TO_OPEN = 3
PROBE_INTERVAL_S = 0.2
PROBE_TIMEOUT_S = 0.5

OnChange = Callable[[bool, str], None]

_log = logging.getLogger(__name__)


class Breaker:
    """Counts failures of one server; `probe` asks it for a sign of life while open."""

    def __init__(
        self,
        probe: Callable[[], Awaitable[None]],
        *,
        on_change: OnChange | None = None,
    ) -> None:
        """Start closed; `on_change` is told (is_open, reason)."""
        self.is_open = False
        self._probe = probe
        self._on_change = on_change
        self._failures = 0
        self._reason = ""
        self._defects = DefectLog(_log)
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_silent(self) -> bool:
        """Whether the last call had no answer: no connection, or no reply in time."""
        return self._failures > 0

    def check(self) -> None:
        """Raise StoreUnavailable with the last failure while open."""
        if self.is_open:
            raise StoreUnavailable(f"{self._reason}; not asked again until it answers a probe")

    def record_success(self) -> None:
        """The server answered."""
        self._failures = 0
        if self.is_open:
            self.is_open = False
            self._tell(False, "the store answers again")

    def record_failure(self, error: StoreError) -> None:
        """The server was silent; opens on the FAILURES_TO_OPEN-th in a row."""
        self._failures += 1
        self._reason = str(error)
        if self._failures >= FAILURES_TO_OPEN:
            self.open(error)

    def open(self, error: StoreError) -> None:
        """Refuse calls from now on, until a probe succeeds."""
        self._reason = str(error)
        if self.is_open:
            return
        self.is_open = True
        self._tell(True, self._reason)
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe_until_closed())

    async def close(self) -> None:
        """End the probing; the breaker stays as it is."""
        if self._probing is not None:
            self._probing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._probing
            self._probing = None

    async def _probe_until_closed(self) -> None:
        while self.is_open:
            await asyncio.sleep(PROBE_INTERVAL_S)
            try:
                await self._probe()
            except StoreError as error:
                self._reason = str(error)
            except Exception as error:  # noqa: BLE001 - without its probes it stays open forever
                self._defects.record(error, "the probe of the store failed")
            else:
                self.record_success()

    def _tell(self, is_open: bool, reason: str) -> None:  # noqa: FBT001 - the callback's own order
        if self._on_change is not None:
            self._on_change(is_open, reason)
