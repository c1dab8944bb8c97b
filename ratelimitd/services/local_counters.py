"""The counters of this process for rules that count locally while the store is away."""

from collections.abc import Callable

from ratelimitd.decisions.local import decide_local
from ratelimitd.decisions.plan import Check

# About 2 MB; beyond it the oldest counter is forgotten and starts anew, which admits its burst.
MAX_COUNTERS = 10_000


class LocalCounters:
    """One theoretical arrival time per counter, oldest first."""

    def __init__(self, share: int, now_us: Callable[[], int]) -> None:
        """Count `1/share` of each limit by the monotonic clock `now_us`."""
        self._share = share
        self._now_us = now_us
        self._tats: dict[bytes, int] = {}

    def __len__(self) -> int:
        """Return how many counters are held."""
        return len(self._tats)

    def is_over(self, check: Check) -> bool:
        """Charge `check` if its local share admits it, else say that it is over."""
        tat = self._tats.pop(check.key, None)
        over, tat = decide_local(tat, check.limit, self._share, check.cost, self._now_us())
        if len(self._tats) >= MAX_COUNTERS:
            del self._tats[next(iter(self._tats))]
        self._tats[check.key] = tat
        return over

    def clear(self) -> None:
        """Forget everything: the store decides again."""
        self._tats.clear()
