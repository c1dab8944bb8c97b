"""A Telemetry as bytes and back, and the sum of several: how one scrape tells of all processes.

Rules:
- Counters add up. What one process knows for all (the policy, what the store says of itself) is
  taken from the control process. A gauge of a process stands under its number.
- The bytes are read by processes of the same program only. Whoever stores them sees to it that
  they are whole (telemetry/mapped.py): marshal is several times cheaper than JSON each second,
  and asks for bytes that it wrote.
"""

import marshal
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from ratelimitd.telemetry.counters import (
    BreakerState,
    MethodSeries,
    StoreSeries,
    Telemetry,
    WorkerSeries,
)
from ratelimitd.telemetry.series import Histogram, RuleSeries

RULE_COUNTS: Final = (
    "near",
    "hits",
    "over_hits",
    "near_hits",
    "within_hits",
    "shadow_hits",
    "cached_hits",
    "refunded_hits",
    "overflowed",
)
TOTALS: Final = (
    "domain_not_found",
    "global_shadow",
    "deny_cache_answers",
    "worker_restarts",
    "blocked",
    "unknown_tiers",
    "stale_periods",
)
STORE_HISTOGRAMS: Final = ("seconds", "checks", "plans")
STORE_COUNTS: Final = (
    "breaker_opened",
    "queued_checks",
    "late_answers",
    "unreadable_states",
    "give_backs_done",
    "give_backs_lost",
    "lost_debt",
)
STORE_INFO: Final = ("used_memory_bytes", "max_memory_bytes", "evicted_keys", "keys")
POLICY_VALUES: Final = (
    "revision",
    "domains",
    "rules",
    "successes",
    "errors",
    "is_last_load_ok",
    "last_success_s",
)
LOG_COUNTS: Final = ("dropped_full", "dropped_unwritable", "suppressed_refusals")
WORKER_VALUES: Final = tuple(WorkerSeries.__slots__)

# There are thousands of rows, and this is several times faster than a loop.
_rule_counts = attrgetter(*RULE_COUNTS)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a process counted; `folded` are the ended workers whose counts are in it already."""

    telemetry: Telemetry
    folded: frozenset[int] = frozenset()


def to_bytes(snapshot: Snapshot) -> bytes:
    """Return `snapshot` as bytes; safe beside a loop that counts."""
    telemetry = snapshot.telemetry
    store = telemetry.store
    state = {
        "folded": list(snapshot.folded),
        "rules": [
            (key, row.domain, row.name, row.rule, dict(row.outcomes), _rule_counts(row))
            for key, row in list(telemetry.rules.rows.items())
        ],
        "overflowed": telemetry.rules.overflowed,
        "unmatched": dict(telemetry.unmatched),
        "totals": _values(telemetry, TOTALS),
        "methods": {
            name: (dict(series.codes), _from_histogram(series.seconds))
            for name, series in list(telemetry.methods.items())
        },
        "store_histograms": [_from_histogram(getattr(store, name)) for name in STORE_HISTOGRAMS],
        "store_errors": dict(store.errors),
        "store_counts": _values(store, STORE_COUNTS),
        "store_info": _values(store, STORE_INFO),
        "breaker": store.breaker.value,
        "policy": _values(telemetry.policy, POLICY_VALUES),
        "logs": _values(telemetry.logs, LOG_COUNTS),
        "refused_callers": dict(telemetry.refused_callers),
        "transport": {family: dict(counts) for family, counts in telemetry.transport.items()},
        "workers": [
            (number, _values(series, WORKER_VALUES))
            for number, series in list(telemetry.workers.items())
        ],
    }
    return marshal.dumps(state)


def from_bytes(data: bytes) -> Snapshot:
    """Return the snapshot that `to_bytes` wrote."""
    state = marshal.loads(data)  # noqa: S302 - written by a process of ours, checked to be whole
    telemetry = Telemetry()
    for key, domain, name, rule, outcomes, counts in state["rules"]:
        row = telemetry.rules.rows[key] = RuleSeries(domain, name, rule)
        row.outcomes = dict(outcomes)
        _set(row, RULE_COUNTS, counts)
    telemetry.rules.overflowed = state["overflowed"]
    telemetry.unmatched = state["unmatched"]
    _set(telemetry, TOTALS, state["totals"])
    for name, (codes, seconds) in state["methods"].items():
        series = telemetry.methods[name] = MethodSeries()
        series.codes = codes
        _to_histogram(series.seconds, seconds)
    store = telemetry.store
    for name, values in zip(STORE_HISTOGRAMS, state["store_histograms"], strict=True):
        _to_histogram(getattr(store, name), values)
    store.errors = state["store_errors"]
    _set(store, STORE_COUNTS, state["store_counts"])
    _set(store, STORE_INFO, state["store_info"])
    store.breaker = BreakerState(state["breaker"])
    _set(telemetry.policy, POLICY_VALUES, state["policy"])
    _set(telemetry.logs, LOG_COUNTS, state["logs"])
    telemetry.refused_callers = state["refused_callers"]
    telemetry.transport = state["transport"]
    for number, values in state["workers"]:
        _set(telemetry.workers.setdefault(number, WorkerSeries()), WORKER_VALUES, values)
    return Snapshot(telemetry, frozenset(state["folded"]))


def add(total: Telemetry, part: Telemetry) -> None:
    """Add what `part` counted to `total`, and the gauges of its processes."""
    _add_ended(total, part)
    total.store.queued_checks += part.store.queued_checks
    if part.store.breaker is BreakerState.OPEN:
        total.store.breaker = BreakerState.OPEN
    total.workers |= part.workers


def fold(total: Telemetry, ended: Telemetry) -> None:
    """Add what a process counted that is no more: its gauges are gone with it."""
    _add_ended(total, ended)


def _add_ended(total: Telemetry, part: Telemetry) -> None:
    for key, row in list(part.rules.rows.items()):
        mine = total.rules.rows.get(key)
        if mine is None:
            mine = total.rules.rows[key] = RuleSeries(row.domain, row.name, row.rule)
        _add_counts(mine.outcomes, row.outcomes)
        _add_fields(mine, row, RULE_COUNTS)
    total.rules.overflowed += part.rules.overflowed
    _add_counts(total.unmatched, part.unmatched)
    _add_fields(total, part, TOTALS)
    for name, series in list(part.methods.items()):
        known = total.methods.setdefault(name, MethodSeries())
        _add_counts(known.codes, series.codes)
        _add_histogram(known.seconds, series.seconds)
    for family, counts in list(part.transport.items()):
        _add_counts(total.transport.setdefault(family, {}), counts)
    _add_counts(total.refused_callers, part.refused_callers)
    _add_store(total.store, part.store)
    _add_fields(total.logs, part.logs, LOG_COUNTS)


def _add_store(total: StoreSeries, part: StoreSeries) -> None:
    for name in STORE_HISTOGRAMS:
        _add_histogram(getattr(total, name), getattr(part, name))
    _add_counts(total.errors, part.errors)
    ended = [name for name in STORE_COUNTS if name != "queued_checks"]
    _add_fields(total, part, ended)


def _add_counts(total: dict[Any, int], part: Mapping[Any, int]) -> None:
    for name, count in list(part.items()):
        total[name] = total.get(name, 0) + count


def _add_fields(total: object, part: object, names: Any) -> None:
    for name in names:
        setattr(total, name, getattr(total, name) + getattr(part, name))


def _add_histogram(total: Histogram, part: Histogram) -> None:
    assert total.bounds == part.bounds, "both are of this program"
    total.counts = [one + other for one, other in zip(total.counts, part.counts, strict=True)]
    total.total += part.total


def _values(source: object, names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple([getattr(source, name) for name in names])


def _set(target: object, names: tuple[str, ...], values: tuple[Any, ...]) -> None:
    for name, value in zip(names, values, strict=True):
        setattr(target, name, value)


def _from_histogram(histogram: Histogram) -> tuple[list[int], float]:
    return list(histogram.counts), histogram.total


def _to_histogram(histogram: Histogram, values: tuple[list[int], float]) -> None:
    histogram.counts, histogram.total = values
