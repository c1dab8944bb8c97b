"""Places held at once: state is the deadline of each holder."""

from collections.abc import Mapping

from ratelimitd.decisions.plan import Check
from tests.model.outcome import Outcome, Told

# What may be taken at once without a slot.
MOST_PLACES = 1000

State = Mapping[bytes, int]


def active(state: State | None, check: Check, now_us: int) -> dict[bytes, int]:
    """Return who holds a place now, and until when at most."""
    last = now_us + check.limit.slot_ttl_us
    return {
        holder: min(deadline, last)
        for holder, deadline in (state or {}).items()
        if deadline > now_us
    }


def pulled(state: State, check: Check, now_us: int) -> State:
    """Return who holds a place with deadlines that may be, if there is one that may not be."""
    last = now_us + check.limit.slot_ttl_us
    return active(state, check, now_us) if max(state.values(), default=0) > last else state


def charge(state: State | None, check: Check, now_us: int) -> Outcome:
    """Take or free places; a named holder has one place at most."""
    held = active(state, check, now_us)
    limit, cost, before = check.limit.requests_per_unit, check.cost, len(held)
    deadline = now_us + check.limit.slot_ttl_us
    if cost == 0:
        return Outcome(held, before, before, before > limit)
    if check.slot:
        over = cost > 0 and check.slot not in held and before + 1 > limit
        if cost > 0:
            held[check.slot] = deadline
        else:
            held.pop(check.slot, None)
        return Outcome(held, before, len(held), over)
    if cost < 0:
        nearest = sorted(held, key=lambda holder: (held[holder], holder))
        for holder in nearest[:-cost]:
            del held[holder]
        return Outcome(held, before, len(held), is_over=False)
    serial = before
    for _ in range(min(cost, min(limit, MOST_PLACES) + 1)):
        while (name := now_us.to_bytes(8) + serial.to_bytes(8)) in held:
            serial += 1
        held[name] = deadline
    return Outcome(held, before, len(held), len(held) > limit or cost > MOST_PLACES)


def tell(state: State | None, check: Check, now_us: int, need: int | None) -> Told:
    """Tell who holds a place, the last deadline, and when enough deadlines have passed."""
    held = active(state, check, now_us)
    limit = check.limit.requests_per_unit
    reset = max(held.values()) - now_us if held else check.limit.slot_ttl_us
    if need is None:
        return Told(len(held), reset, 0)
    places = min(need, 1) if check.slot else need
    if places > limit or (places > MOST_PLACES):
        return Told(len(held), reset, -1)
    moments = [now_us, *sorted(held.values())]
    first = next(
        moment
        for moment in moments
        if sum(deadline > moment for deadline in held.values()) + places <= limit
    )
    return Told(len(held), reset, first - now_us)


def life_us(state: State, check: Check, now_us: int) -> int:
    """Return how long the state means something; 0 if nobody holds a place."""
    return max(active(state, check, now_us).values(), default=now_us) - now_us
