"""Plans for a Cluster: split by partition, and one reply again from what the partitions said.

Rules:
- Plans keep their order within each partition; each partition is one script call.
- A partition sees a part of a request only, so it must not refuse because all *its* quota limits
  are over: a split part is sent with one more passing quota limit.
- Overall refusal is decided over all parts. What a part charged for a limit that counts admitted
  requests only is given back then; until that arrives, others see it as spent.
- Of a request with a part unanswered nothing is given back: StoreReplyLost, perhaps spent.
- Of a request with a part that had no calendar period for now, all that others charged is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ratelimitd.decisions.keys import partition_of
from ratelimitd.decisions.plan import Check, CheckResult, Plan, Reply
from ratelimitd.decisions.refusal import is_refused
from ratelimitd.errors import StoreError, StoreReplyLost, StoreUnavailable
from ratelimitd.policy.model import Algorithm
from ratelimitd.store.wire import (
    Charge,
    PackedPlan,
    Shaped,
    is_denied_shape,
    keys_of_checks,
    piece_of,
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


def split(plans: Sequence[PackedPlan]) -> list[Part]:
    """Return one part for each partition that `plans` touch."""
    parts: dict[bytes, Part] = {}
    for number, packed in enumerate(plans):
        tags = _tags(packed)
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
                part.plans.append(piece_of(packed, indexes))
                part.origins.append(_Origin(number, indexes))
    return list(parts.values())


def _tags(packed: PackedPlan) -> list[bytes]:
    """Return the partition of each check; its further keys lie with the first."""
    if len(packed.keys) == packed.check_count:
        return [partition_of(key) for key in packed.keys]
    return [partition_of(keys[0]) for keys in keys_of_checks(packed)]


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
    replies: Sequence[tuple[bytes, _Origin, Reply]],
    give_back: dict[bytes, list[Charge]],
) -> Reply:
    """Decide the whole request from its parts; adds to `give_back` what it must not have cost."""
    results: dict[int, CheckResult] = {}
    for _, origin, reply in replies:
        results.update(zip(origin.checks, reply.results, strict=True))
    ordered = [results[index] for index in range(packed.check_count)]
    now_us = max(reply.now_us for _, _, reply in replies)
    stale = [reply for _, _, reply in replies if reply.is_stale]
    if stale:
        # Nothing of the request stands: it is asked again.
        for tag, charge in _charged(packed.plan, replies):
            give_back.setdefault(tag, []).append(charge)
        return Reply(stale[0].now_us, is_refused=True, results=tuple(ordered), is_stale=True)
    if not is_denied_shape(packed.shape) and not any(result.is_over for result in ordered):
        # Nothing refuses, and the plan itself need not be looked at.
        return Reply(now_us, is_refused=False, results=tuple(ordered))
    plan = packed.plan
    over = [(check, result.is_over) for check, result in zip(plan.checks, ordered, strict=True)]
    refused = plan.is_denied or is_refused(over, plan.passing_quota)
    if refused:
        returned: dict[bytes, int] = {}
        for tag, charge in _wrongly_charged(plan, replies):
            give_back.setdefault(tag, []).append(charge)
            returned[charge.check.key] = returned.get(charge.check.key, 0) + charge.amount
        ordered = [
            result._replace(used_final=max(0, result.used_final - returned.get(check.key, 0)))
            for check, result in zip(plan.checks, ordered, strict=True)
        ]
    return Reply(now_us, refused, tuple(ordered))


def _wrongly_charged(
    plan: Plan, replies: Sequence[tuple[bytes, _Origin, Reply]]
) -> Iterator[tuple[bytes, Charge]]:
    """Yield what parts that would have admitted charged to limits that count admitted only."""
    for tag, origin, reply in replies:
        if not reply.is_refused:
            yield from _net(plan, tag, origin, reply, lambda check: not _counts_denied(check))


def _charged(
    plan: Plan, replies: Sequence[tuple[bytes, _Origin, Reply]]
) -> Iterator[tuple[bytes, Charge]]:
    """Yield everything that parts charged."""
    for tag, origin, reply in replies:
        if reply.is_stale:
            continue
        if reply.is_refused:
            yield from _net(plan, tag, origin, reply, _counts_denied)
        else:
            yield from _net(plan, tag, origin, reply, lambda _: True)


def _counts_denied(check: Check) -> bool:
    """Tell whether a refusal charges: who is refused holds no slot."""
    return check.limit.counts_denied and check.limit.algorithm is not Algorithm.CONCURRENCY


def _net(
    plan: Plan, tag: bytes, origin: _Origin, reply: Reply, wanted: Callable[[Check], bool]
) -> Iterator[tuple[bytes, Charge]]:
    """Yield one charge per counter, so that a floor between two of them changes nothing.

    Slots are apart from each other. What a newcomer was charged beside its own counter stays there.
    """
    net: dict[tuple[bytes, bytes], Charge] = {}
    for index, result in zip(origin.checks, reply.results, strict=True):
        check = plan.checks[index]
        if not wanted(check) or result.is_overflowed:
            continue
        of = (check.key, check.slot)
        before = net[of].amount if of in net else 0
        amount = before + result.used_after - result.used_before
        net[of] = Charge(check, amount, reply.now_us)
    yield from ((tag, charge) for charge in net.values() if charge.amount)
