"""Plans to script arguments, script replies to replies; the layout is told in lua/lib/batch.lua."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import Struct, pack
from typing import NamedTuple, Protocol

from ratelimitd.decisions.plan import Check, CheckResult, Plan, Reply
from ratelimitd.policy.model import Algorithm
from ratelimitd.store.exchange import Argument

FLAG_SHADOW = 1
FLAG_QUOTA = 2
FLAG_COUNTS_DENIED = 4
FLAG_JOINED = 8
FLAG_SLOT = 16
FLAG_BIRTHS = 32

ALGORITHM_NUMBER = {
    Algorithm.FIXED_WINDOW: 0,
    Algorithm.SLIDING_WINDOW: 2,
    Algorithm.GCRA: 3,
    Algorithm.CONCURRENCY: 4,
}
CALENDAR = 1

# What stands for a refused request, and for one of which nothing was decided.
REFUSED = 1
STALE = 2

SLOT_BYTES = 16
# A check with births has a counter of its own, one of births, and one that the others share.
KEYS_WITH_BIRTHS = 3

_SHAPE_HEAD = Struct(">HHB")
_SHAPE_CHECK = Struct(">BBqqqqqqq")
_FLAGS_AT = 1
# Of the cost among the fields of a check.
_COST = Struct(">q")
_COST_AT = 10
_CHARGE_HEAD = Struct(">Hq")
# The fields of CheckResult.
_RESULT = Struct(">?5q?")


class Shaped(Protocol):
    """Checks as the scripts get them: what they share with others, and their counters."""

    @property
    def shape(self) -> bytes:
        """Return all but the keys, as lua/lib/batch.lua tells it."""
        ...

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Return the counters of each check: one, or with births three."""
        ...

    @property
    def slots(self) -> bytes:
        """Return the 16 bytes of each check that has a slot."""
        ...

    @property
    def check_count(self) -> int:
        """Return how many checks there are."""
        ...


class PackedPlan(Shaped, Protocol):
    """A whole plan as the scripts get it."""

    @property
    def plan(self) -> Plan:
        """Return the plan itself."""
        ...


class Piece(NamedTuple):
    """Some checks of a plan."""

    shape: bytes
    keys: tuple[bytes, ...]
    slots: bytes
    check_count: int


class Packed(NamedTuple):
    """A packed plan, made of a plan that is there."""

    plan: Plan
    shape: bytes
    keys: tuple[bytes, ...]
    slots: bytes
    check_count: int


class Replies(NamedTuple):
    """What a script answered: a reply per plan, and what it met on the way.

    `unreadable` counters counted as absent; `lost_debt` is cost beyond what gcra records as debt.
    """

    replies: list[Reply]
    unreadable: int
    lost_debt: int


@dataclass(frozen=True, slots=True)
class Charge:
    """One charge to give back: what it added to its counter, and when by the store's clock.

    `amount` is below zero for a refund, and less than the cost where the count was at its end.
    """

    check: Check
    amount: int
    charged_at_us: int


def pack_plan(plan: Plan) -> Packed:
    """Return `plan` ready to be sent, as often as it is asked."""
    checks = plan.checks
    parts = [_SHAPE_HEAD.pack(len(checks), plan.passing_quota, plan.is_denied)]
    parts += [_pack_check(check, check.cost) for check in checks]
    keys: list[bytes] = []
    for check in checks:
        keys.append(check.key)
        if check.births is not None:
            keys += (check.births.key, check.births.overflow_key)
    slots = b"".join([check.slot for check in checks])
    return Packed(plan, b"".join(parts), tuple(keys), slots, len(checks))


def _pack_check(check: Check, cost: int) -> bytes:
    limit, periods = check.limit, check.periods
    flags = (
        (FLAG_SHADOW if limit.is_shadow else 0)
        | (FLAG_QUOTA if limit.is_quota else 0)
        | (FLAG_COUNTS_DENIED if limit.counts_denied else 0)
        | (FLAG_JOINED if check.is_joined else 0)
        | (FLAG_SLOT if check.slot else 0)
        | (FLAG_BIRTHS if check.births is not None else 0)
    )
    number, window_us = ALGORITHM_NUMBER[limit.algorithm], limit.window_us
    a = b = c = 0
    if periods is not None:
        number, (window_us, a, b, c) = CALENDAR, periods
    elif limit.algorithm is Algorithm.GCRA:
        a, b = limit.capacity, limit.debt
    elif limit.algorithm is Algorithm.CONCURRENCY:
        window_us = limit.slot_ttl_us
    births = 0 if check.births is None else check.births.per_second
    return _SHAPE_CHECK.pack(
        number, flags, limit.requests_per_unit, cost, window_us, a, b, c, births
    )


def with_cost(shape: bytes, cost: int) -> bytes:
    """Return the shape of the same checks at another cost, the same for all of them."""
    changed = bytearray(shape)
    for at in range(_SHAPE_HEAD.size + _COST_AT, len(shape), _SHAPE_CHECK.size):
        _COST.pack_into(changed, at, cost)
    return bytes(changed)


def keys_of_checks(packed: Shaped) -> list[tuple[bytes, ...]]:
    """Return the keys of each check."""
    found: list[tuple[bytes, ...]] = []
    at = 0
    for number in range(packed.check_count):
        end = at + (KEYS_WITH_BIRTHS if _has_flag(packed.shape, number, FLAG_BIRTHS) else 1)
        found.append(packed.keys[at:end])
        at = end
    return found


def piece_of(packed: Shaped, checks: Sequence[int]) -> Piece:
    """Return some checks of a plan.

    It has one more quota descriptor that passes elsewhere: a part must not refuse because all *its*
    quota limits are over.
    """
    _, passing_quota, is_denied = _SHAPE_HEAD.unpack_from(packed.shape)
    parts = [_SHAPE_HEAD.pack(len(checks), passing_quota + 1, is_denied)]
    keys: list[bytes] = []
    slots: list[bytes] = []
    all_keys = keys_of_checks(packed)
    slot_at = 0
    for number in range(packed.check_count):
        has_slot = _has_flag(packed.shape, number, FLAG_SLOT)
        if number in checks:
            at = _SHAPE_HEAD.size + number * _SHAPE_CHECK.size
            parts.append(packed.shape[at : at + _SHAPE_CHECK.size])
            keys += all_keys[number]
            if has_slot:
                slots.append(packed.slots[slot_at : slot_at + SLOT_BYTES])
        slot_at += SLOT_BYTES if has_slot else 0
    return Piece(b"".join(parts), tuple(keys), b"".join(slots), len(checks))


def _has_flag(shape: bytes, number: int, flag: int) -> bool:
    at = _SHAPE_HEAD.size + number * _SHAPE_CHECK.size + _FLAGS_AT
    return bool(shape[at] & flag)


def is_denied_shape(shape: bytes) -> bool:
    """Tell whether a plan is refused whatever its limits say."""
    return bool(_SHAPE_HEAD.unpack_from(shape)[2])


def to_arguments(
    plans: Iterable[Shaped], now_us: int | None = None
) -> tuple[list[bytes], list[Argument]]:
    """Return (KEYS, ARGV) of check.lua or peek.lua; `now_us` None means the store's clock."""
    number_of: dict[bytes, int] = {}
    order: list[int] = []
    keys: list[bytes] = []
    slots = b""
    for plan in plans:
        order.append(number_of.setdefault(plan.shape, len(number_of)))
        keys += plan.keys
        if plan.slots:
            slots += plan.slots
    return keys, [
        "" if now_us is None else now_us,
        pack(f">{len(order)}H", *order),
        slots,
        *number_of,
    ]


def from_reply(raw: object, plans: Sequence[Shaped]) -> Replies:
    """Return one reply per plan, and what the script met."""
    assert isinstance(raw, list), "a script answers a list"
    now_us, unreadable, verdicts, packed, lost_debt = raw
    # A named tuple's own constructor takes its fields one by one, and costs several times as much.
    new = tuple.__new__
    results = [new(CheckResult, fields) for fields in _RESULT.iter_unpack(packed)]
    replies: list[Reply] = []
    at = 0
    for plan, verdict in zip(plans, verdicts, strict=True):
        end = at + plan.check_count
        # A stale one is refused, for all that nobody looks.
        replies.append(new(Reply, (now_us, verdict != 0, tuple(results[at:end]), verdict == STALE)))
        at = end
    assert at == len(results), "a reply answers exactly the checks that were asked"
    return Replies(replies, unreadable, lost_debt)


def to_give_back_arguments(
    charges: Iterable[Charge], now_us: int | None = None
) -> tuple[list[bytes], list[Argument]]:
    """Return (KEYS, ARGV) of give_back.lua."""
    index_of: dict[bytes, int] = {}
    packed: list[bytes] = []
    slots: list[bytes] = []
    for charge in charges:
        # What a newcomer was charged beside its own counter stays there.
        check = charge.check._replace(births=None)
        index = index_of.setdefault(check.key, len(index_of) + 1)
        packed.append(_CHARGE_HEAD.pack(index, charge.charged_at_us))
        packed.append(_pack_check(check, charge.amount))
        slots.append(check.slot)
    return list(index_of), [
        "" if now_us is None else now_us,
        b"".join(packed),
        b"".join(slots),
    ]
