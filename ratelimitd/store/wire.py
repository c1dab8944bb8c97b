"""Plans to script arguments, script replies to replies; the layout is told in lua/lib/batch.lua."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import Struct, pack
from typing import NamedTuple, Protocol

from ratelimitd.decisions.plan import Check, CheckResult, Plan, Reply
from ratelimitd.store.exchange import Argument

FLAG_SHADOW = 1
FLAG_QUOTA = 2
FLAG_COUNTS_DENIED = 4

# What stands for a refused request.
REFUSED = 1

_SHAPE_HEAD = Struct(">HHB")
_SHAPE_CHECK = Struct(">qqqB")
# Of the cost among the fields of a check.
_COST = Struct(">q")
_COST_AT = 16
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
        """Return the counter of each check."""
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


class Packed(NamedTuple):
    """A packed plan, made of a plan that is there."""

    plan: Plan
    shape: bytes
    keys: tuple[bytes, ...]
    slots: bytes = b""


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
    for check in checks:
        limit = check.limit
        flags = (
            (FLAG_SHADOW if limit.is_shadow else 0)
            | (FLAG_QUOTA if limit.is_quota else 0)
            | (FLAG_COUNTS_DENIED if limit.counts_denied else 0)
        )
        parts.append(_SHAPE_CHECK.pack(limit.window_us, limit.requests_per_unit, check.cost, flags))
    return Packed(plan, b"".join(parts), tuple([check.key for check in checks]))


def with_cost(shape: bytes, cost: int) -> bytes:
    """Return the shape of the same checks at another cost, the same for all of them."""
    changed = bytearray(shape)
    for at in range(_SHAPE_HEAD.size + _COST_AT, len(shape), _SHAPE_CHECK.size):
        _COST.pack_into(changed, at, cost)
    return bytes(changed)


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
    for plan in plans:
        order.append(number_of.setdefault(plan.shape, len(number_of)))
        keys += plan.keys
    return keys, [
        "" if now_us is None else now_us,
        pack(f">{len(order)}H", *order),
        *number_of,
    ]


def from_reply(raw: object, plans: Sequence[Shaped]) -> tuple[list[Reply], int]:
    """Return one reply per plan, and how many counters were unreadable and count as absent."""
    assert isinstance(raw, list), "a script answers a list"
    now_us, unreadable, refused, packed = raw
    # A named tuple's own constructor takes its fields one by one, and costs several times as much.
    new = tuple.__new__
    results = [new(CheckResult, fields) for fields in _RESULT.iter_unpack(packed)]
    replies: list[Reply] = []
    at = 0
    for plan, is_refused in zip(plans, refused, strict=True):
        end = at + len(plan.keys)
        replies.append(new(Reply, (now_us, is_refused == REFUSED, tuple(results[at:end]), False)))
        at = end
    assert at == len(results), "a reply answers exactly the checks that were asked"
    return replies, unreadable


def to_give_back_arguments(
    charges: Iterable[Charge], now_us: int | None = None
) -> tuple[list[bytes], list[Argument]]:
    """Return (KEYS, ARGV) of give_back.lua."""
    index_of: dict[bytes, int] = {}
    fields: list[Argument] = []
    count = 0
    for charge in charges:
        check = charge.check
        index = index_of.setdefault(check.key, len(index_of) + 1)
        fields += (index, check.limit.window_us, charge.amount, charge.charged_at_us)
        count += 1
    return list(index_of), ["" if now_us is None else now_us, count, *fields]
