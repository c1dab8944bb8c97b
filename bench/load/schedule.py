"""When an open loop sends: instants that do not depend on how fast anybody answers.

Arrivals are a Poisson process, as those of many independent callers are. Time is passed in. A
caller that comes late gets every instant that has passed, and measures from those instants, so
that a stall of the server (or of us) is in the latencies instead of in a thinner load.
"""

from random import Random

NS = 1_000_000_000


class Schedule:
    """Instants from 0 to `seconds`, in nanoseconds since the start, `rate` a second on average."""

    def __init__(self, rate: float, seconds: float, seed: str) -> None:
        """Begin at 0; equal arguments give equal instants."""
        assert rate > 0, "an open loop has a rate"
        self._random = Random(seed)
        self._mean_rate = rate / NS
        self._end_ns = int(seconds * NS)
        self._next_ns = self._gap()

    @property
    def is_over(self) -> bool:
        """Tell whether every instant was taken."""
        return self._next_ns >= self._end_ns

    def take_due(self, now_ns: int) -> list[int]:
        """Return the instants up to `now_ns` that were not taken yet, in order."""
        due = []
        last_ns = min(now_ns, self._end_ns - 1)
        while self._next_ns <= last_ns:
            due.append(self._next_ns)
            self._next_ns += self._gap()
        return due

    def _gap(self) -> int:
        return int(self._random.expovariate(self._mean_rate))


def connection_order(connections: int, weights: tuple[int, int], seed: str) -> list[int]:
    """Return connection numbers to use in turn, each 1 to N times as often as the slowest.

    `weights` is the smallest and the largest share, drawn for each connection: (1, 5) is a fleet of
    which some call five times as often as others.
    """
    random = Random(seed)
    low, high = weights
    order = [number for number in range(connections) for _ in range(random.randint(low, high))]
    random.shuffle(order)
    return order
