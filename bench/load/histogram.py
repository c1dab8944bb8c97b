"""Latencies in buckets that are never wider than 1/64 of the value: small, mergeable, exact enough.

Rules:
- A value below 128 ns has a bucket of its own; above, each power of two has 64 buckets.
- A percentile is the upper end of its bucket, so it overstates by at most 1/64 and never
  understates; the largest value is kept exactly.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_SUB_BITS = 7
_HALF = 1 << (_SUB_BITS - 1)
# 68 s; a longer wait counts as this.
MAX_NS = (1 << 36) - 1


def bucket_of(value_ns: int) -> int:
    """Return the bucket of a value; negative counts as 0, more than MAX_NS as MAX_NS."""
    if value_ns < 1 << _SUB_BITS:
        return max(value_ns, 0)
    value_ns = min(value_ns, MAX_NS)
    shift = value_ns.bit_length() - _SUB_BITS
    return shift * _HALF + (value_ns >> shift)


def upper_ns(bucket: int) -> int:
    """Return the largest value of a bucket."""
    if bucket < 1 << _SUB_BITS:
        return bucket
    shift = bucket // _HALF - 1
    return ((bucket - shift * _HALF + 1) << shift) - 1


_BUCKETS = bucket_of(MAX_NS) + 1


@dataclass(slots=True)
class Histogram:
    """How many values fell into each bucket."""

    counts: list[int] = field(default_factory=lambda: [0] * _BUCKETS)
    max_ns: int = 0

    def record(self, value_ns: int) -> None:
        """Count one value."""
        self.counts[bucket_of(value_ns)] += 1
        self.max_ns = max(self.max_ns, value_ns)

    def record_waits(self, starts_ns: Iterable[int], now_ns: int) -> None:
        """Count how long it has been since each of `starts_ns`."""
        counts, max_ns = self.counts, self.max_ns
        for start_ns in starts_ns:
            value_ns = now_ns - start_ns
            counts[bucket_of(value_ns)] += 1
            max_ns = max(max_ns, value_ns)
        self.max_ns = max_ns

    def total(self) -> int:
        """Return how many values were counted."""
        return sum(self.counts)

    def percentile_ns(self, share: float) -> int:
        """Return a value that at least `share` of all do not exceed; 0 if there are none."""
        total = self.total()
        # Where rounding made of a whole number a little more, it stays that number.
        wanted = max(1, -int(-(share * total - 1e-6) // 1))
        seen = 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if seen >= wanted and count:
                return min(upper_ns(bucket), self.max_ns)
        return 0

    def to_json(self) -> dict[str, int]:
        """Return the filled buckets, and the maximum, for the line between processes."""
        filled = {str(bucket): count for bucket, count in enumerate(self.counts) if count}
        return {"max": self.max_ns, **filled}


def from_json(value: Mapping[str, int]) -> Histogram:
    """Return what `to_json` wrote."""
    histogram = Histogram()
    for name, count in value.items():
        if name == "max":
            histogram.max_ns = count
        else:
            histogram.counts[int(name)] = count
    return histogram


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """Return all values of all `histograms` in one."""
    found = Histogram()
    for one in histograms:
        found.max_ns = max(found.max_ns, one.max_ns)
        pairs = zip(found.counts, one.counts, strict=True)
        found.counts = [ours + theirs for ours, theirs in pairs]
    return found
