"""Which worker gets the next connection, and which one must give up some.

Rules:
- Pure: time is an argument, in seconds of a monotonic clock.
- A load is how many connections a worker has and was not yet told to let go.
- A worker that is MARGIN or more above the mean for PATIENCE_S gives up one connection, and has
  the same patience before the next.
- A worker that joins, because one died, is filled at once: while it is, the others give up what
  they have beyond their even share, a part of it in each round, so that a fleet does not come
  back in one moment. After FILL_S that ends: clients that stay away are not asked again.
"""

from collections.abc import Mapping, Sequence
from typing import Final

MARGIN: Final = 2
PATIENCE_S: Final = 30.0
FILL_S: Final = 120.0
# The share of its surplus that a worker gives up in one round, which is a second.
FILL_PART: Final = 8


def choose(loads: Sequence[int | None], after: int) -> int | None:
    """Return who of `loads` has the fewest, the first one behind `after` if there are several.

    None as a load is one that can take nothing; None as the answer says that nobody can.
    """
    count = len(loads)
    order = [(after + 1 + step) % count for step in range(count)]
    able = [(load, index) for index in order if (load := loads[index]) is not None]
    return min(able, key=lambda each: each[0])[1] if able else None


class Rebalancer:
    """Remembers who has had too many connections, and since when."""

    def __init__(self) -> None:
        """Start with everything even."""
        self._above_since_s: dict[int, float] = {}
        self._fill_until_s: float | None = None

    def join(self, now_s: float) -> None:
        """Fill up a worker that has just begun."""
        self._fill_until_s = now_s + FILL_S

    def surplus(self, loads: Mapping[int, int], now_s: float) -> dict[int, int]:
        """Return how many connections each worker of `loads` is to give up now."""
        if self._fill_until_s is not None:
            if now_s < self._fill_until_s and not _is_even(loads):
                # Patience begins anew when the filling is over.
                self._above_since_s.clear()
                return _to_fill(loads)
            self._fill_until_s = None
        return self._of_the_patient(loads, now_s)

    def _of_the_patient(self, loads: Mapping[int, int], now_s: float) -> dict[int, int]:
        count, total = len(loads), sum(loads.values())
        above = {worker for worker, load in loads.items() if load * count >= total + MARGIN * count}
        self._above_since_s = {
            worker: self._above_since_s.get(worker, now_s) for worker in sorted(above)
        }
        due = [
            worker for worker, since in self._above_since_s.items() if now_s - since >= PATIENCE_S
        ]
        for worker in due:
            self._above_since_s[worker] = now_s
        return dict.fromkeys(due, 1)


def _is_even(loads: Mapping[int, int]) -> bool:
    return not loads or max(loads.values()) - min(loads.values()) <= 1


def _to_fill(loads: Mapping[int, int]) -> dict[int, int]:
    """Return a part of what each worker has beyond its even share, at least one."""
    share, rest = divmod(sum(loads.values()), len(loads))
    fullest_first = sorted(loads, key=lambda worker: (-loads[worker], worker))
    beyond = {
        worker: loads[worker] - share - (1 if place < rest else 0)
        for place, worker in enumerate(fullest_first)
    }
    return {worker: -(-more // FILL_PART) for worker, more in beyond.items() if more > 0}
