"""Plans to script arguments, script replies to replies; the layout is told in lua/lib/batch.lua."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import Struct, pack
from typing import NamedTuple, Protocol, assert_never

from ratelimitd.decisions.plan import Check, CheckResult, Plan, Reply
from ratelimitd.policy.model import Algorithm, Limit
from ratelimitd.store.exchange import Argument

FLAG_SHADOW = 1
FLAG_QUOTA = 2
FLAG_COUNTS_DENIED = 4
FLAG_JOINED = 8
FLAG_SLOT = 16
FLAG_BIRTHS = 32

# The algorithms by their numbers.
FIXED_WINDOW = 0
CALENDAR = 1
SLIDING_WINDOW = 2
GCRA = 3
CONCURRENCY = 4

# What stands for a refused request, and for one that no period of a calendar held.
ADMITTED = 0
STALE = 2

SLOT_LENGTH = 16

_SHAPE_HEAD = Struct(">HHB")
_SHAPE_CHECK = Struct(">BB7q")
# Of the flags and the cost among the fields of a check.
_FLAGS_AT = 1
_COST = Struct(">q")
_COST_AT = 10
# The fields of CheckResult.
_RESULT = Struct(">?5q?")
# Of a charge to give back: the index of its key, and when it was made.
_CHARGE_HEAD = Struct(">Hq")


class Shaped(Protocol):
    """Checks as the scripts get them: what they share with others, and their counters."""

    @property
    def shape(self) -> bytes:
        """Return all but keys and slots, as lua/lib/batch.lua tells it."""
        ...

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Return the counter of each check; three in a row for one with births."""
        ...

    @property
    def slots(self) -> bytes:
        """Return the slots of all checks that have one, 16 bytes each."""
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
    # As in the protocol; a tuple's own method of that name is nobody's here.
    check_count: int


class Packed(NamedTuple):
    """A packed plan, made of a plan that is there."""

    plan: Plan
    shape: bytes
    keys: tuple[bytes, ...]
    slots: bytes
    check_count: int


class Replies(NamedTuple):
    """What a script answered: a reply for each plan, and what it noticed.

    `unreadable` counters held garbage and count as absent; `lost` are the cells of gcra beyond the
    debt that a limit remembers.
    """

    replies: list[Reply]
    unreadable: int
    lost: int


@dataclass(frozen=True, slots=True)
class Charge:
    """One charge to give back: what it added to the counter `key`, and when by the store's clock.

    `amount` is below zero for a refund, and less than the cost where the count was at its end.
    """

    check: Check
    key: bytes
    amount: int
    charged_at_us: int


def pack_plan(plan: Plan) -> Packed:
    """Return `plan` ready to be sent, as often as it is asked."""
    checks = plan.checks
    parts = [_SHAPE_HEAD.pack(len(checks), plan.passing_quota, plan.is_denied)]
    keys: list[bytes] = []
    for check in checks:
        parts.append(_pack_check(check, check.cost))
        keys.append(check.key)
        if check.births is not None:
            keys += (check.births.key, check.births.overflow_key)
    slots = b"".join([check.slot for check in checks])
    return Packed(plan, b"".join(parts), tuple(keys), slots, len(checks))


def _pack_check(check: Check, cost: int) -> bytes:
    limit = check.limit
    assert not check.slot or len(check.slot) == SLOT_LENGTH, "a slot is a digest"
    flags = (
        (FLAG_SHADOW if limit.is_shadow else 0)
        | (FLAG_QUOTA if limit.is_quota else 0)
        | (FLAG_COUNTS_DENIED if limit.counts_denied else 0)
        | (FLAG_JOINED if check.is_joined else 0)
        | (FLAG_SLOT if check.slot else 0)
        | (FLAG_BIRTHS if check.births is not None else 0)
    )
    number, window_us, *rest = _to_numbers(limit, check)
    births = check.births.per_second if check.births is not None else 0
    return _SHAPE_CHECK.pack(number, flags, limit.requests_per_unit, cost, window_us, *rest, births)


def counts_denied(limit: Limit) -> bool:
    """Tell whether a limit charges what is refused: a refused call holds no place."""
    return limit.counts_denied and limit.algorithm is not Algorithm.CONCURRENCY


def _to_numbers(limit: Limit, check: Check) -> tuple[int, int, int, int, int]:
    """Return what an algorithm works with: its number, window_us, a, b, c."""
    match limit.algorithm:
        case Algorithm.FIXED_WINDOW if limit.calendar is not None:
            assert check.periods is not None, "a plan names the periods of a calendar"
            return CALENDAR, *check.periods
        case Algorithm.FIXED_WINDOW:
            return FIXED_WINDOW, limit.window_us, 0, 0, 0
        case Algorithm.SLIDING_WINDOW:
            return SLIDING_WINDOW, limit.window_us, 0, 0, 0
        case Algorithm.GCRA:
            return GCRA, limit.window_us, limit.capacity, limit.debt, 0
        case Algorithm.CONCURRENCY:
            return CONCURRENCY, limit.slot_ttl_us, 0, 0, 0
        case _:
            assert_never(limit.algorithm)


def with_cost(shape: bytes, cost: int) -> bytes:
    """Return the shape of the same checks at another cost, the same for all of them."""
    changed = bytearray(shape)
    for at in range(_SHAPE_HEAD.size + _COST_AT, len(shape), _SHAPE_CHECK.size):
        _COST.pack_into(changed, at, cost)
    return bytes(changed)


def flags_of_shape(shape: bytes) -> bytes:
    """Return the flags of each check of a plan."""
    return shape[_SHAPE_HEAD.size + _FLAGS_AT :: _SHAPE_CHECK.size]


def part_of_shape(shape: bytes, checks: Sequence[int]) -> bytes:
    """Return the shape of some checks of a plan.

    It has one more quota limit that passes elsewhere: a part must not refuse because all *its*
    quota limits are over.
    """
    _, passing_quota, is_denied = _SHAPE_HEAD.unpack_from(shape)
    parts = [_SHAPE_HEAD.pack(len(checks), passing_quota + 1, is_denied)]
    for check in checks:
        at = _SHAPE_HEAD.size + check * _SHAPE_CHECK.size
        parts.append(shape[at : at + _SHAPE_CHECK.size])
    return b"".join(parts)


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
    """Return one reply per plan, and what the script noticed."""
    assert isinstance(raw, list), "a script answers a list"
    now_us, unreadable, verdicts, packed, lost = raw
    # A named tuple's own constructor takes its fields one by one, and costs several times as much.
    new = tuple.__new__
    results = [new(CheckResult, fields) for fields in _RESULT.iter_unpack(packed)]
    replies: list[Reply] = []
    at = 0
    for plan, verdict in zip(plans, verdicts, strict=True):
        end = at + plan.check_count
        # Of a stale one nothing was decided; that it is refused sends it the long way.
        replies.append(
            new(Reply, (now_us, verdict != ADMITTED, tuple(results[at:end]), verdict == STALE))
        )
        at = end
    assert at == len(results), "a reply answers exactly the checks that were asked"
    return Replies(replies, unreadable, lost)


def to_give_back_arguments(
    charges: Iterable[Charge], now_us: int | None = None
) -> tuple[list[bytes], list[Argument]]:
    """Return (KEYS, ARGV) of give_back.lua."""
    index_of: dict[bytes, int] = {}
    packed: list[bytes] = []
    slots: list[bytes] = []
    for charge in charges:
        index = index_of.setdefault(charge.key, len(index_of) + 1)
        packed += (
            _CHARGE_HEAD.pack(index, charge.charged_at_us),
            _pack_check(charge.check, charge.amount),
        )
        slots.append(charge.check.slot)
    return list(index_of), ["" if now_us is None else now_us, b"".join(packed), b"".join(slots)]
