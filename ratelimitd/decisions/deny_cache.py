"""Refusals remembered for a moment, so that a caller far over its limit costs no store call.

Rules:
- An entry refuses what the store refused: the same counter, amount and policy, and at least the
  refused cost. It never refuses a shadow limit, a cost of 0 or a refund.
- It lives until the limit may admit again, counted from before the batch was sent, and at most
  MAX_AGE_US: after a refund or a raise made elsewhere it may refuse that much longer. It never
  admits.
- It is filled by fixed windows, and by other limits that do not count denied hits; never by
  concurrency.
- The store is skipped only if every check of a request is refused here, so no charge is lost.
- Bounded: the oldest entry leaves first.
"""

from collections.abc import Collection
from dataclasses import dataclass

from ratelimitd.decisions.plan import Check, CheckResult, Plan, Reply
from ratelimitd.policy.model import Algorithm, Limit

MAX_AGE_US = 1_000_000

# What an entry costs in memory, generously: key, entry, result and the dict's slot.
ENTRY_BYTES = 512


@dataclass(frozen=True, slots=True)
class _Entry:
    until_us: int
    sent_us: int
    cost: int
    amount: int
    policy_revision: str
    result: CheckResult


class DenyCache:
    """Refused checks by counter key; every time is the same monotonic clock, in microseconds."""

    def __init__(self, size_bytes: int) -> None:
        """Hold at most `size_bytes`; 0 remembers nothing."""
        self._capacity = size_bytes // ENTRY_BYTES
        self._entries: dict[bytes, _Entry] = {}

    def __len__(self) -> int:
        """Return how many refusals are remembered."""
        return len(self._entries)

    def remember(self, plan: Plan, reply: Reply, sent_us: int) -> None:
        """Keep the refusals of `reply`; `sent_us` is before its batch was sent."""
        if self._capacity == 0 or not reply.is_refused:
            return
        for check, result in zip(plan.checks, reply.results, strict=True):
            limit = check.limit
            if not _may_be_kept(limit, result) or not _refuses_alone(check, result):
                continue
            wait_us = result.retry_after_us if result.retry_after_us > 0 else result.reset_us
            self._entries.pop(check.key, None)
            if len(self._entries) >= self._capacity:
                del self._entries[next(iter(self._entries))]
            self._entries[check.key] = _Entry(
                until_us=sent_us + min(wait_us, MAX_AGE_US),
                sent_us=sent_us,
                cost=check.cost,
                amount=limit.requests_per_unit,
                policy_revision=plan.policy_revision,
                result=result,
            )

    def may_refuse(self, keys: Collection[bytes]) -> bool:
        """Tell whether `answer` is worth asking for a plan with these counters."""
        entries = self._entries
        return bool(entries) and not entries.keys().isdisjoint(keys)

    def answer(self, plan: Plan, now_us: int) -> Reply | None:
        """Return the refusal of the whole plan, or None if the store must be asked."""
        if not self._entries or not plan.checks:
            return None
        results = []
        for check in plan.checks:
            entry = self._entries.get(check.key)
            if entry is None or not _refuses(entry, check, plan.policy_revision, now_us):
                return None
            elapsed_us = now_us - entry.sent_us
            results.append(
                entry.result._replace(
                    used_before=entry.result.used_final,
                    used_after=entry.result.used_final,
                    reset_us=max(1, entry.result.reset_us - elapsed_us),
                    retry_after_us=_later(entry.result.retry_after_us, elapsed_us),
                )
            )
        return Reply(now_us, is_refused=True, results=tuple(results))


def _may_be_kept(limit: Limit, result: CheckResult) -> bool:
    """Tell whether refusals of a limit may be repeated without the store.

    A slot may come free at any time. Where a denied hit is charged and lasts, gcra and sliding
    windows, it must not be missed; a fixed window that is over stays so to its end. A value that
    shares the counter of newcomers may have one of its own the next time.
    """
    if limit.is_shadow or limit.is_quota or result.is_overflowed:
        return False
    if limit.algorithm is Algorithm.FIXED_WINDOW:
        return True
    return limit.algorithm is not Algorithm.CONCURRENCY and not limit.counts_denied


def _refuses_alone(check: Check, result: CheckResult) -> bool:
    """Say whether a check that was over would be so again, without its request before it."""
    return (
        result.is_over and check.cost > 0 and result.used_final + check.cost > check.limit.capacity
    )


def _refuses(entry: _Entry, check: Check, policy_revision: str, now_us: int) -> bool:
    limit = check.limit
    return (
        now_us < entry.until_us
        and check.cost >= entry.cost
        and not limit.is_shadow
        and not limit.is_quota
        and limit.requests_per_unit == entry.amount
        and policy_revision == entry.policy_revision
    )


def _later(retry_after_us: int, elapsed_us: int) -> int:
    return retry_after_us if retry_after_us < 0 else max(1, retry_after_us - elapsed_us)
