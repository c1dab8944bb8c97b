"""Plans for a Cluster: split by partition, and one reply again from what the partitions said.

Rules:
- Plans keep their order within each partition; each partition is one script call.
- A partition sees a part of a request only, so it must not refuse because all *its* quota limits
  are over: a split part is sent with one more passing quota limit.
- Overall refusal is decided over all parts. What a part charged for a limit that counts admitted
  requests only is given back then; until that arrives, others see it as spent.
- A part without a period for its time decided nothing: the whole request is stale, and all that the
  other parts charged is given back. A counter that was new stays one in the count of births.
- Of a request with a part unanswered nothing is given back: StoreReplyLost, perhaps spent.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ratelimitd.decisions.keys import partition_of
from ratelimitd.decisions.plan import KEYS_WITH_BIRTHS, Check, CheckResult, Plan, Reply
from ratelimitd.decisions.refusal import Ruling, is_refused
from ratelimitd.errors import StoreError, StoreReplyLost, StoreUnavailable
from ratelimitd.policy.model import Algorithm
from ratelimitd.store.wire import (
    FLAG_BIRTHS,
    FLAG_SLOT,
    SLOT_LENGTH,
    Charge,
    PackedPlan,
    Piece,
    Shaped,
    counts_denied,
    flags_of_shape,
    is_denied_shape,
    part_of_shape,
)


class _Origin(NamedTuple):
    """Which checks of which plan a part holds."""

    plan: int
    checks: Sequence[int]


@dataclass(frozen=True, slots=True)
class Part:
    """What one partition is asked: whole plans, and parts of plans, in order."""

    tag: bytes
    plans: list[Shaped] = field(default_factory=list)
    origins: list[_Origin] = field(default_factory=list)


PartAnswer = Sequence[Reply] | StoreError
_PartReply = tuple[bytes, _Origin, Reply]


def split(plans: Sequence[PackedPlan]) -> list[Part]:
    """Return one part for each partition that `plans` touch."""
    parts: dict[bytes, Part] = {}
    for number, packed in enumerate(plans):
        first = _first_keys(packed)
        tags = [partition_of(packed.keys[at]) for at in first]
        distinct = dict.fromkeys(tags)
        for tag in distinct:
            part = parts.get(tag)
            if part is None:
                part = parts[tag] = Part(tag)
            if len(distinct) == 1:
                part.plans.append(packed)
                part.origins.append(_Origin(number, range(len(tags))))
            else:
                indexes = [index for index, other in enumerate(tags) if other == tag]
                part.plans.append(_piece_of(packed, first, indexes))
                part.origins.append(_Origin(number, indexes))
    return list(parts.values())


def _first_keys(packed: PackedPlan) -> Sequence[int]:
    """Return where the keys of each check begin; they lie in one partition."""
    if len(packed.keys) == packed.check_count:
        return range(packed.check_count)
    first = [0]
    for flags in flags_of_shape(packed.shape):
        first.append(first[-1] + (KEYS_WITH_BIRTHS if flags & FLAG_BIRTHS else 1))
    return first[:-1]


def _piece_of(packed: PackedPlan, first: Sequence[int], indexes: Sequence[int]) -> Piece:
    """Return some checks of a plan, whose keys begin at `first`."""
    ends = [*first[1:], len(packed.keys)]
    keys: list[bytes] = []
    for index in indexes:
        keys += packed.keys[first[index] : ends[index]]
    slots = b""
    if packed.slots:
        slot_at = 0
        for index, flags in enumerate(flags_of_shape(packed.shape)):
            if flags & FLAG_SLOT:
                if index in indexes:
                    slots += packed.slots[slot_at : slot_at + SLOT_LENGTH]
                slot_at += SLOT_LENGTH
    return Piece(part_of_shape(packed.shape, indexes), tuple(keys), slots, len(indexes))


def merge(
    plans: Sequence[PackedPlan], parts: Sequence[Part], answers: Sequence[PartAnswer]
) -> tuple[list[Reply | StoreError], Mapping[bytes, list[Charge]]]:
    """Return a reply, or an error, for each plan, and the charges to give back by partition."""
    pieces: list[list[tuple[Part, _Origin, Reply | StoreError]]] = [[] for _ in plans]
    for part, answer in zip(parts, answers, strict=True):
        for position, origin in enumerate(part.origins):
            piece = answer if isinstance(answer, StoreError) else answer[position]
            pieces[origin.plan].append((part, origin, piece))
    give_back: dict[bytes, list[Charge]] = {}
    merged: list[Reply | StoreError] = []
    for plan, own in zip(plans, pieces, strict=True):
        assert own, "a plan has at least one check"
        replies = [
            (part.tag, origin, piece)
            for part, origin, piece in own
            if not isinstance(piece, StoreError)
        ]
        if len(replies) < len(own):
            errors = [piece for _, _, piece in own if isinstance(piece, StoreError)]
            merged.append(_error_of(errors, is_part_answered=bool(replies)))
        elif len(replies) == 1:
            merged.append(replies[0][2])
        else:
            merged.append(_join(plan, replies, give_back))
    return merged, give_back


def _error_of(errors: Sequence[StoreError], *, is_part_answered: bool) -> StoreError:
    for error in errors:
        if not isinstance(error, StoreUnavailable):
            return error
    if is_part_answered:
        return StoreReplyLost(f"{errors[0]}; other limits of the request are charged already")
    return errors[0]


def _join(
    packed: PackedPlan,
    replies: Sequence[_PartReply],
    give_back: dict[bytes, list[Charge]],
) -> Reply:
    """Decide the whole request from its parts; adds to `give_back` what it must not have cost."""
    now_us = max(reply.now_us for _, _, reply in replies)
    results: dict[int, CheckResult] = {}
    for _, origin, reply in replies:
        results.update(zip(origin.checks, reply.results, strict=True))
    ordered = [results[index] for index in range(packed.check_count)]
    if any(reply.is_stale for _, _, reply in replies):
        # Nothing of the request stands.
        for tag, charge in _all_charges(packed.plan, replies):
            give_back.setdefault(tag, []).append(charge)
        nothing = (CheckResult(False, 0, 0, 0, 0, 0),) * packed.check_count
        return Reply(now_us, is_refused=True, results=nothing, is_stale=True)
    if not is_denied_shape(packed.shape) and not any(result.is_over for result in ordered):
        # Nothing refuses, and the plan itself need not be looked at.
        return Reply(now_us, is_refused=False, results=tuple(ordered))
    plan = packed.plan
    rulings = [
        Ruling(check.limit, result.is_over, check.is_joined)
        for check, result in zip(plan.checks, ordered, strict=True)
    ]
    refused = plan.is_denied or is_refused(rulings, plan.passing_quota)
    if refused:
        returned: dict[bytes, int] = {}
        for tag, charge in _wrongly_charged(plan, replies):
            give_back.setdefault(tag, []).append(charge)
            returned[charge.key] = returned.get(charge.key, 0) + charge.amount
        ordered = [
            result._replace(
                used_final=max(0, result.used_final - returned.get(_charged_key(check, result), 0))
            )
            for check, result in zip(plan.checks, ordered, strict=True)
        ]
    return Reply(now_us, refused, tuple(ordered))


def _charged_key(check: Check, result: CheckResult) -> bytes:
    """Return the counter that a check charged."""
    if result.is_overflowed:
        assert check.births is not None, "only new counters overflow"
        return check.births.overflow_key
    return check.key


def _wrongly_charged(plan: Plan, replies: Sequence[_PartReply]) -> Iterator[tuple[bytes, Charge]]:
    """Yield what parts that would have admitted charged to limits that count admitted only."""
    for tag, origin, reply in replies:
        if not reply.is_refused:
            net = _Net(reply.now_us)
            for index, result in zip(origin.checks, reply.results, strict=True):
                check = plan.checks[index]
                # What was given back stays so, whoever refuses.
                if check.cost >= 0 and not counts_denied(check.limit):
                    net.add(check, result, _held_after(check, result) - result.used_before)
            yield from ((tag, charge) for charge in net.charges())


def _all_charges(plan: Plan, replies: Sequence[_PartReply]) -> Iterator[tuple[bytes, Charge]]:
    """Yield all that was charged: what each counter holds more than before."""
    for tag, origin, reply in replies:
        net = _Net(reply.now_us)
        seen: set[bytes] = set()
        for index, result in zip(origin.checks, reply.results, strict=True):
            check = plan.checks[index]
            key = _charged_key(check, result)
            if check.limit.algorithm is Algorithm.CONCURRENCY:
                if not reply.is_refused:
                    net.add(check, result, result.used_after - result.used_before)
            elif key not in seen:
                net.add(check, result, result.used_final - result.used_before)
            seen.add(key)
        yield from ((tag, charge) for charge in net.charges())


class _Net:
    """One charge per counter, so that a floor between two of them changes nothing."""

    def __init__(self, charged_at_us: int) -> None:
        self._charged_at_us = charged_at_us
        # By counter and slot: a slot is given back by its name.
        self._by_key: dict[tuple[bytes, bytes], Charge] = {}

    def add(self, check: Check, result: CheckResult, amount: int) -> None:
        key = _charged_key(check, result)
        before = self._by_key.get((key, check.slot))
        amount += before.amount if before is not None else 0
        self._by_key[key, check.slot] = Charge(check, key, amount, self._charged_at_us)

    def charges(self) -> Iterator[Charge]:
        """Yield what is not nothing; a place that was released stays free."""
        for charge in self._by_key.values():
            is_place = charge.check.limit.algorithm is Algorithm.CONCURRENCY
            if charge.amount > 0 or (charge.amount < 0 and not is_place):
                yield charge


def _held_after(check: Check, result: CheckResult) -> int:
    """Return what a counter held after an admitted check: gcra holds no more than its debt."""
    limit = check.limit
    if limit.algorithm is Algorithm.GCRA:
        return min(result.used_after, limit.capacity + limit.debt)
    return result.used_after
