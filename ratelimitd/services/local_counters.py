"""The counters of this process for rules that count locally while the store is away."""

from collections.abc import Callable, Mapping, Sequence

from ratelimitd.decisions.local import decide_local
from ratelimitd.decisions.plan import Check
from ratelimitd.decisions.refusal import Ruling, is_refused

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

    def decide(self, checks: Sequence[Check], passing_quota: int) -> list[bool]:
        """Say for each check whether it is over its share; charge them all, or none if refused."""
        now_us = self._now_us()
        tats: dict[bytes, int | None] = {}
        overs = []
        for check in checks:
            tat = tats.get(check.key, self._tats.get(check.key))
            over, tats[check.key] = decide_local(tat, check.limit, self._share, check.cost, now_us)
            overs.append(over)
        rulings = [
            Ruling(check.limit, over, check.is_joined)
            for check, over in zip(checks, overs, strict=True)
        ]
        if not is_refused(rulings, passing_quota):
            self._charge(tats)
        return overs

    def clear(self) -> None:
        """Forget everything: the store decides again."""
        self._tats.clear()

    def _charge(self, tats: Mapping[bytes, int | None]) -> None:
        for key, tat in tats.items():
            assert tat is not None, "every decision names its arrival time"
            self._tats.pop(key, None)
            if len(self._tats) >= MAX_COUNTERS:
                del self._tats[next(iter(self._tats))]
            self._tats[key] = tat
