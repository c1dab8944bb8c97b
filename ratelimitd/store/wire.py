"""Plans to script arguments, script replies to replies; the layout is told in lua/lib/batch.lua."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ratelimitd.decisions.plan import Check, CheckResult, Plan, Reply

FLAG_SHADOW = 1
FLAG_QUOTA = 2
FLAG_COUNTS_DENIED = 4
_FIELDS_PER_CHECK = 6

Argument = bytes | str | int


@dataclass(frozen=True, slots=True)
class Charge:
    """One charge to give back: what it added to its counter, and when by the store's clock.

    `amount` is below zero for a refund, and less than the cost where the count was at its end.
    """

    check: Check
    amount: int
    charged_at_us: int


def to_arguments(
    plans: Sequence[Plan], now_us: int | None = None
) -> tuple[list[bytes], list[Argument]]:
    """Return (KEYS, ARGV) of check.lua or peek.lua; `now_us` None means the store's clock."""
    index_of: dict[bytes, int] = {}
    arguments: list[Argument] = ["" if now_us is None else now_us, len(plans)]
    for plan in plans:
        arguments += (len(plan.checks), plan.passing_quota, int(plan.is_denied))
        for check in plan.checks:
            limit = check.limit
            arguments += (
                index_of.setdefault(check.key, len(index_of) + 1),
                limit.window_us,
                limit.requests_per_unit,
                check.cost,
                (FLAG_SHADOW if limit.is_shadow else 0)
                | (FLAG_QUOTA if limit.is_quota else 0)
                | (FLAG_COUNTS_DENIED if limit.counts_denied else 0),
            )
    return list(index_of), arguments


def from_reply(raw: Sequence[int], plans: Sequence[Plan]) -> tuple[list[Reply], int]:
    """Return one reply per plan, and how many counters were unreadable and count as absent."""
    now_us, unreadable = raw[0], raw[1]
    position = 2
    replies = []
    for plan in plans:
        is_refused = raw[position] == 1
        position += 1
        results = []
        for _ in plan.checks:
            over, *amounts = raw[position : position + _FIELDS_PER_CHECK]
            results.append(CheckResult(over == 1, *amounts))
            position += _FIELDS_PER_CHECK
        replies.append(Reply(now_us, is_refused, tuple(results)))
    assert position == len(raw), "a reply answers exactly the checks that were asked"
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
