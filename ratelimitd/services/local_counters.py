"""The counters of this process for rules that count locally while the store is away."""

from collections.abc import Callable, Mapping, Sequence

from ratelimitd.decisions.local import LocalState, decide_local
from ratelimitd.decisions.plan import Check
from ratelimitd.decisions.refusal import Ruling, is_refused

# About 2 MB; beyond it the oldest counter is forgotten and starts anew, which admits its burst.
MAX_COUNTERS = 10_000


class LocalCounters:
    """One state per counter, oldest first."""

    def __init__(self, share: int, now_us: Callable[[], int]) -> None:
        """Count `1/share` of each limit by the monotonic clock `now_us`."""
        self._share = share
        self._now_us = now_us
        self._states: dict[bytes, LocalState] = {}

    def __len__(self) -> int:
        """Return how many counters are held."""
        return len(self._states)

    def decide(self, checks: Sequence[Check], passing_quota: int) -> list[bool]:
        """Say for each check whether it is over its share; charge them all, or none if refused."""
        now_us = self._now_us()
        states: dict[bytes, LocalState] = {}
        overs = []
        for check in checks:
            state = states.get(check.key, self._states.get(check.key))
            over, states[check.key] = decide_local(
                state, check.limit, self._share, check.cost, now_us
            )
            overs.append(over)
        rulings = [
            Ruling(check.limit, over, check.is_joined)
            for check, over in zip(checks, overs, strict=True)
        ]
        if not is_refused(rulings, passing_quota):
            self._charge(states)
        return overs

    def clear(self) -> None:
        """Forget everything: the store decides again."""
        self._states.clear()

    def _charge(self, states: Mapping[bytes, LocalState]) -> None:
        for key, state in states.items():
            self._states.pop(key, None)
            if len(self._states) >= MAX_COUNTERS:
                del self._states[next(iter(self._states))]
            self._states[key] = state
