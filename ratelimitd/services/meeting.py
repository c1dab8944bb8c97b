"""Calls of one read whose subjects nobody knows yet: they wait for the directory together."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence

from ratelimitd.errors import StoreError
from ratelimitd.services.directory import Directory
from ratelimitd.services.hot_calls import Call, Later
from ratelimitd.services.ready_plan import ReadyPlan

# A call, and its plan as if the registry had no record of its subjects.
Unmet = tuple[Call, ReadyPlan]
# Serves calls, of whose bodies plans were made already.
Serve = Callable[[Sequence[Call], Mapping[bytes, ReadyPlan]], None]


class Meeting:
    """Serves calls once, as soon as their subjects are known, and no later than any of them waits.

    `margin_s` is what is left of a caller's patience at the latest.
    """

    __slots__ = ("_clock", "_default_s", "_met_at_s", "_serve", "_timer", "_unmet")

    def __init__(
        self, unmet: Sequence[Unmet], serve: Serve, clock: Callable[[], float], default_s: float
    ) -> None:
        """Wait for nothing yet; a call without a deadline waits for `default_s`."""
        self._unmet = unmet
        self._serve = serve
        self._clock = clock
        self._default_s = default_s
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, directory: Directory, margin_s: float) -> None:
        """Ask the directory; raises what it raises, and then nothing is served."""
        fields: dict[str, None] = {}
        wait_s = math.inf
        for (_, head, _), ready in self._unmet:
            for field in ready.missing:
                fields[field] = None
            timeout_s = head.timeout_s
            wait_s = min(wait_s, self._default_s if timeout_s is None else timeout_s)
        self._met_at_s = self._clock()
        # Who waits longer than the directory needs no timer of its own.
        if wait_s - margin_s < directory.timeout_s:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, wait_s - margin_s), self._end)
        try:
            directory.want(fields, self._end)
        except BaseException:
            self._unmet = ()
            self._stop_timer()
            raise

    def _end(self, _: StoreError | None = None) -> None:
        unmet, self._unmet = self._unmet, ()
        if not unmet:
            return
        self._stop_timer()
        # What is left of each call's patience, by the time that went by.
        late_s = self._clock() - self._met_at_s
        planned: dict[bytes, ReadyPlan] = {}
        calls: list[Call] = []
        for (number, head, body), ready in unmet:
            planned[body] = ready
            calls.append((number, Later(head, late_s, self._default_s), body))
        self._serve(calls, planned)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
