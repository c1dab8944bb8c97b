"""How much of each kind a peer sent in an interval, against its bounds."""

from enum import IntEnum

from ratelimitd.transport.h2.bounds import Bounds
from ratelimitd.transport.h2.failures import over_bound


class Kind(IntEnum):
    """What is counted; the name in lower case and `_per_interval` is the field of Bounds."""

    RESETS = 0
    STREAM_ERRORS = 1
    SETTINGS = 2
    PINGS = 3
    EMPTY_DATA = 4
    WINDOW_UPDATES = 5
    OTHER_FRAMES = 6


def bound_name(kind: Kind) -> str:
    """Return the field of Bounds that bounds `kind`."""
    return f"{kind.name.lower()}_per_interval"


def to_limits(bounds: Bounds) -> tuple[int, ...]:
    """Return the bound of each kind, in their order."""
    return tuple(getattr(bounds, bound_name(kind)) for kind in Kind)


class Meter:
    """The counts of one connection in the current interval."""

    __slots__ = ("_counts", "_limits", "_per_call", "calls")

    def __init__(self, limits: tuple[int, ...], per_call: int) -> None:
        """Allow `limits`, and `per_call` more of each kind for every completed call."""
        self._limits = limits
        self._per_call = per_call
        self._counts: list[int] | None = None
        self.calls = 0

    def spend(self, kind: Kind) -> None:
        """Count one of `kind`. Raises PeerError beyond its bound."""
        if self._counts is None:
            self._counts = [0] * len(self._limits)
        self._counts[kind] += 1
        if self._counts[kind] > self._limits[kind] + self.calls * self._per_call:
            raise over_bound(bound_name(kind))

    def reset(self) -> None:
        """Begin an interval."""
        self._counts = None
        self.calls = 0
