"""Random requests against counters of every algorithm, and random steps of the clock."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import redis
from hypothesis import strategies as st
from hypothesis.vendor.pretty import RepresentationPrinter

from ratelimitd.decisions.plan import Births, Check, Periods, Plan
from ratelimitd.policy.model import WINDOW_US, Algorithm, Calendar, Limit, Unit
from tests.support.plans import gcra_of, limit_of, places_of, plain_key, plan_of, sliding_of

NOW_US = 1_790_000_000_000_000
DAY_US = WINDOW_US[Unit.DAY]
LARGEST = 2**53 - 1

amounts = st.one_of(st.integers(0, 6), st.just(2**32 - 1))
costs = st.one_of(
    st.integers(-3, 6), st.just(0), st.sampled_from([LARGEST, -LARGEST, 2**32 - 1, LARGEST - 1])
)
slots = st.sampled_from([b"", b"A" * 16, b"\xff\0" * 8, b"A" * 15 + b"B"])

# (limit, window, burst, max_debt): what the policy check lets through, its extremes too.
GCRA_KINDS = (
    (0, 1_000_000, None, None),
    (1, 1_000_000, None, None),
    (3, 1_000_000, 5, None),
    (3, 1_000_000, 1, 0),
    (7, 60_000_000, None, 2),
    (7, 60_000_000, 0, 0),
    (1_000_000, 1_000_000, 3, None),
    (1_000_000, 1_000_000, None, 0),
    (2**26, DAY_US, None, None),
    (2**26 - 1, DAY_US, 2**26, 2**26),
    (2, 365 * DAY_US, 70, 70),
    (2**26 - 3, 365 * DAY_US, 2**26, 2**26),
)


def border_us(number: int) -> int:
    """Return where period `number` of the test calendar begins: each is of another length."""
    return number * DAY_US + number % 3 * 3_600_000_000


KINDS = ("fixed", "calendar", "sliding", "gcra", "places")


@st.composite
def limits(draw: st.DrawFn, kinds: Sequence[str] = KINDS) -> Limit:
    """Draw a limit: its window decides which counters it can meet."""
    match draw(st.sampled_from(kinds)):
        case "fixed":
            made = limit_of(
                draw(amounts), draw(st.sampled_from([Unit.MINUTE, Unit.SECOND, Unit.YEAR]))
            )
        case "calendar":
            made = replace(limit_of(draw(amounts), Unit.DAY), calendar=Calendar(Unit.DAY))
        case "sliding":
            windows = [1_000_000, 60_000_000, 7_000_001, 365 * DAY_US]
            made = sliding_of(draw(amounts), draw(st.sampled_from(windows)))
        case "gcra":
            amount, window_us, burst, max_debt = draw(st.sampled_from(GCRA_KINDS))
            made = gcra_of(amount, window_us, burst=burst, max_debt=max_debt)
        case _:
            made = places_of(draw(amounts), draw(st.sampled_from([1_000_000, 10_000_001])))
    return replace(
        made,
        is_shadow=draw(st.booleans()),
        is_quota=draw(st.booleans()),
        counts_denied=draw(st.booleans()),
    )


@st.composite
def checks(draw: st.DrawFn, *, has_births: bool = True, kinds: Sequence[str] = KINDS) -> Check:
    """Draw one check on one of two counters of its kind."""
    limit = draw(limits(kinds))
    value = draw(st.sampled_from("aab"))
    calendar = "calendar-" if limit.calendar else ""
    periods = None
    if limit.calendar is not None:
        day = (NOW_US + draw(st.sampled_from([0, 0, 0, 0, -DAY_US, 366 * DAY_US]))) // DAY_US
        periods = Periods(*[border_us(day + step) for step in (-1, 0, 1, 2)])
    births = None
    if has_births and draw(st.sampled_from([False, False, True])):
        births = Births(
            plain_key(limit, f"{calendar}births"),
            plain_key(limit, f"{calendar}overflow"),
            draw(st.integers(1, 2)),
        )
    slot = draw(slots) if limit.algorithm is Algorithm.CONCURRENCY else b""
    return Check(
        plain_key(limit, calendar + value), limit, draw(costs), False, slot, periods, births
    )


@st.composite
def plans(draw: st.DrawFn, *, has_births: bool = True) -> Plan:
    """Draw one request."""
    drawn = draw(st.lists(checks(has_births=has_births), min_size=1, max_size=4))
    joined = [
        check._replace(is_joined=index > 0 and draw(st.booleans()))
        for index, check in enumerate(drawn)
    ]
    return plan_of(
        *joined,
        passing_quota=draw(st.integers(0, 1)),
        is_denied=draw(st.sampled_from([False, False, False, True])),
    )


# Steps to borders of every unit, small ones, and backwards.
steps = st.one_of(
    st.integers(-3_000_000, 3_000_000),
    st.sampled_from([0, 1, -1, 999_999, 60_000_000, -10_000_000, 10_000_000, -DAY_US, DAY_US]),
    st.just(366 * DAY_US),
)


class Moment(NamedTuple):
    """A step of the clock, and what is asked then."""

    step_us: int
    plans: list[Plan]

    def __repr__(self) -> str:
        """Tell what matters: a plan's own text is several kilobytes long."""
        return f"{self.step_us:+} us: [{', '.join(map(show, self.plans))}]"

    def _repr_pretty_(self, printer: RepresentationPrinter, _: bool) -> None:
        printer.text(repr(self))


@st.composite
def moments(draw: st.DrawFn) -> Moment:
    """Draw what is asked at once, and when."""
    return Moment(draw(steps), draw(st.lists(plans(), min_size=1, max_size=3)))


@st.composite
def lone_moments(draw: st.DrawFn, kind: str) -> Moment:
    """Draw one request of one check."""
    check = draw(checks(has_births=False, kinds=[kind]))
    return Moment(draw(st.one_of(st.just(0), steps)), [plan_of(check)])


History = list[Moment]
histories = st.lists(moments(), min_size=1, max_size=12)


def show(plan: Plan) -> str:
    """Return what distinguishes a drawn plan."""
    shown = []
    for check in plan.checks:
        limit = check.limit
        names = ("is_shadow", "is_quota", "counts_denied")
        modes = [name for name in names if getattr(limit, name)] + ["joined"] * check.is_joined
        shown.append(
            f"{check.key.decode()} {limit.requests_per_unit}"
            f" {limit.capacity}+{limit.debt} cost {check.cost} {' '.join(modes)}"
            f" {check.slot!r} {tuple(check.periods or ())} {check.births and check.births[2]}"
        )
    return f"passing={plan.passing_quota} denied={plan.is_denied} ({'; '.join(shown)})"


def dump(client: redis.Redis) -> dict[bytes, object]:
    """Return all that the store holds, byte by byte."""
    return {key: client.dump(key) for key in client.scan_iter()}
