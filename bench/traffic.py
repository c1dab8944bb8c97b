"""What each algorithm admits of the same offered traffic, by check.lua with time passed in.

Rules:
- The whole way is real: a policy in YAML, a plan, the script in a store. Only the clock is given.
- Nothing is drawn by chance, so that a second run gives the same numbers.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ratelimitd.decisions.facts import Facts
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Reply
from ratelimitd.decisions.planning import make_plan
from ratelimitd.decisions.request import Descriptor, Request
from ratelimitd.policy.calendar import periods
from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.model import Calendar, Unit
from tests.support.scripted import ScriptedStore

US_PER_S = 1_000_000
HOUR_US = 3_600 * US_PER_S

LIMIT = 10
BURST = 5
DAILY = 100
ZONE = "Europe/Berlin"
SLOT_TTL_S = 2
POLICY = f"""
domain: plots
descriptors:
  - key: fixed_window
    rate_limit: {{unit: second, requests_per_unit: {LIMIT}}}
  - key: sliding_window
    rate_limit: {{unit: second, requests_per_unit: {LIMIT}, algorithm: sliding_window}}
  - key: gcra
    rate_limit: {{unit: second, requests_per_unit: {LIMIT}, algorithm: gcra, burst: {BURST}}}
  - key: calendar
    rate_limit: {{unit: day, requests_per_unit: {DAILY}, calendar: true, timezone: {ZONE}}}
  - key: slots
    rate_limit:
      {{requests_per_unit: {LIMIT}, algorithm: concurrency, slot: request_id, slot_ttl: 2s}}
  - key: nameless
    rate_limit: {{requests_per_unit: {LIMIT}, algorithm: concurrency, slot_ttl: 2s}}
"""

# The border of a second, of a minute and of an hour.
START_US = 1_789_999_200 * US_PER_S
LENGTH_US = 8 * US_PER_S
# From, until, requests a second: across a border, steadily too much, after a rest.
PHASES = ((0.8, 1.2, 100), (2.5, 4.5, 20), (6.2, 6.6, 100))

# Saturday noon in UTC; the Sunday behind it has 25 hours in ZONE.
DAYS_START_US = 1_792_843_200 * US_PER_S
DAYS_LENGTH_US = 72 * HOUR_US
OFFERED_AN_HOUR = 6

# Each call lasts a second, and twice as many come as there are places.
CALLS_A_SECOND = 20
CALL_US = US_PER_S
# Nobody says in this time that a call ended: a gateway is gone.
SILENT_US = (4 * US_PER_S, 5 * US_PER_S)


@dataclass(frozen=True, slots=True)
class Traffic:
    """When requests came and which were admitted; `counts` is what the counter held after each."""

    start_us: int
    length_us: int
    offered_us: tuple[int, ...]
    admitted_us: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Occupancy:
    """At each change: the time, calls that really are in flight, and places that are held."""

    start_us: int
    length_us: int
    at_us: tuple[int, ...]
    in_flight: tuple[int, ...]
    held: tuple[int, ...]


class Asker:
    """Asks one store by the policy of the pictures."""

    def __init__(self, store: ScriptedStore) -> None:
        """Ask `store`, which is empty."""
        self._store = store
        self._policy = compile_policy({"plots.yaml": POLICY}).policy

    def ask(self, descriptor: Descriptor, now_us: int) -> Reply:
        """Return what the store answers at `now_us`."""
        request = Request("plots", (descriptor,))
        facts = Facts(now_us=now_us)
        plan = make_plan(self._policy, request, DecisionOptions(), b"\0" * 32, facts)
        (reply,) = self._store.check([plan], now_us)
        return reply


def in_windows(asker: Asker, algorithm: str) -> Traffic:
    """Offer PHASES to a limit of LIMIT a second."""
    return _offer(asker, algorithm, START_US, LENGTH_US, tuple(_phased()))


def in_days(asker: Asker) -> Traffic:
    """Offer the same each hour, over a day on which the clocks change."""
    step_us = HOUR_US // OFFERED_AN_HOUR
    offered_us = tuple(range(DAYS_START_US, DAYS_START_US + DAYS_LENGTH_US, step_us))
    return _offer(asker, "calendar", DAYS_START_US, DAYS_LENGTH_US, offered_us)


def midnights_us() -> list[int]:
    """Return where local days begin during the traffic of `in_days`."""
    calendar = Calendar(Unit.DAY, ZONE)
    found: list[int] = []
    next_us = periods(calendar, DAYS_START_US)[2]
    while next_us < DAYS_START_US + DAYS_LENGTH_US:
        found.append(next_us)
        next_us = periods(calendar, next_us)[2]
    return found


def in_flight(asker: Asker, *, has_slots: bool) -> Occupancy:
    """Let calls come and end, by name or without; as from Envoy, refused calls end too."""
    step_us = US_PER_S // CALLS_A_SECOND
    # (time, 0 for an end and 1 for a call, number, whether it was admitted)
    events = [
        (START_US + at_us, 1, at_us // step_us, False) for at_us in range(0, LENGTH_US, step_us)
    ]
    silent_us = tuple(START_US + at_us for at_us in SILENT_US)
    at: list[int] = []
    flying: list[int] = []
    held: list[int] = []
    now_flying = 0
    while events:
        now_us, is_call, number, was_admitted = heapq.heappop(events)
        if is_call:
            is_admitted = not asker.ask(_call(number, has_slots=has_slots), now_us).is_refused
            now_flying += is_admitted
            end_us = now_us + CALL_US if is_admitted else now_us
            heapq.heappush(events, (end_us, 0, number, is_admitted))
        else:
            now_flying -= was_admitted
            if not silent_us[0] <= now_us < silent_us[1]:
                asker.ask(_call(number, has_slots=has_slots, is_end=True), now_us)
        question = _call(number, has_slots=has_slots, hits=0)
        at.append(now_us)
        flying.append(now_flying)
        held.append(asker.ask(question, now_us).results[0].used_final)
    return Occupancy(START_US, LENGTH_US, tuple(at), tuple(flying), tuple(held))


def counted_in(times_us: Sequence[int], span_us: int, at_us: int) -> int:
    """Return how many of `times_us` lie in the span that ends with `at_us`."""
    return sum(at_us - span_us < time_us <= at_us for time_us in times_us)


def most_in(times_us: Sequence[int], span_us: int) -> int:
    """Return how many of `times_us` lie in the fullest span of this length."""
    return max(counted_in(times_us, span_us, at_us) for at_us in times_us)


def _offer(
    asker: Asker, key: str, start_us: int, length_us: int, offered_us: tuple[int, ...]
) -> Traffic:
    admitted_us: list[int] = []
    counts: list[int] = []
    for at_us in offered_us:
        reply = asker.ask(Descriptor(((key, "somebody"),)), at_us)
        if not reply.is_refused:
            admitted_us.append(at_us)
        counts.append(reply.results[0].used_final)
    return Traffic(start_us, length_us, offered_us, tuple(admitted_us), tuple(counts))


def _phased() -> Iterator[int]:
    for begin_s, end_s, rate in PHASES:
        for number in range(round((end_s - begin_s) * rate)):
            yield START_US + round((begin_s + number / rate) * US_PER_S)


def _call(number: int, *, has_slots: bool, is_end: bool = False, hits: int = 1) -> Descriptor:
    """Return what a gateway sends for a call: when it begins, and when it ends."""
    name = "slots" if has_slots else "nameless"
    entries = [(name, "somebody")]
    if has_slots:
        entries.append(("request_id", str(number)))
    return Descriptor(tuple(entries), None, hits, is_end)
