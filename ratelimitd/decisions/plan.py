"""What a request asks of the store: which counters it touches, and what that costs.

Rules:
- Pure: the same policy, request and options give the same plan.
- A plan names every check that the store must decide; a plan without checks needs no store.
- What is made for each request is a tuple: a frozen dataclass costs several times as much.
- Checks are in descriptor order, and the store decides them serially in that order.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from ratelimitd.decisions.request import Request
from ratelimitd.policy.model import HeaderStyle, Limit


class Outcome(StrEnum):
    """Why a descriptor is, or is not, checked by the store."""

    CHECKED = "checked"
    NO_MATCH = "no_match"
    NO_MATCH_DENIED = "no_match_denied"
    REPLACED = "replaced"
    BLOCKED = "blocked"
    UNASKED = "unasked"
    UNLIMITED = "unlimited"


# Keys of a check that bounds how many counters may be new: its own, the count, the overflow.
KEYS_WITH_BIRTHS = 3


class Births(NamedTuple):
    """How many counters of one limit may be new in a second, and where the others count.

    `key` counts the new ones, `overflow_key` is the counter of all values beyond `per_second`.
    """

    key: bytes
    overflow_key: bytes
    per_second: int


class Periods(NamedTuple):
    """The borders of three calendar periods in a row, in microseconds since the Unix epoch."""

    previous_us: int
    current_us: int
    next_us: int
    end_us: int


class Check(NamedTuple):
    """One limit of one descriptor against one counter; `cost` below 0 is a refund.

    `limit` has the amount that holds for this request: its tier's, or an override. `is_joined`
    says that the check before is of the same descriptor. `slot` is, for concurrency, the 16 bytes
    that stand for the holder, or empty without one. `periods` are those of a calendar.
    `metric_key` is its name in metrics.
    """

    key: bytes
    limit: Limit
    cost: int
    is_joined: bool = False
    slot: bytes = b""
    periods: Periods | None = None
    births: Births | None = None
    metric_key: str = ""


class DescriptorPlan(NamedTuple):
    """What became of one descriptor.

    `limit` is the first that matched, or None; `metric_key` is its name in metrics; `check` is the
    index of its first check among the plan's, or None where the store is not asked, and
    `check_count` how many follow each other there. `entries` are the descriptor's as people may
    see them: a secret value is its fingerprint's first 8 digits. `blocked_until_us` is
    when a block ends, None if it does not.
    """

    outcome: Outcome
    entries: tuple[tuple[str, str], ...]
    limit: Limit | None = None
    metric_key: str = ""
    cost: int = 1
    check: int | None = None
    check_count: int = 1
    blocked_until_us: int | None = None


class Plan(NamedTuple):
    """One request, ready to be decided.

    `passing_quota` counts quota descriptors that pass without the store: with one, an
    all-quota refusal is impossible. `unmatched` counts those that no rule matched.
    `is_denied` says that the request is refused whatever its limits say: a domain refuses what
    no rule matches, or an entry is blocked. `unknown_tiers` counts limits with tiers whose caller
    is of none that they name.
    """

    request: Request
    policy_revision: str
    descriptors: tuple[DescriptorPlan, ...]
    checks: tuple[Check, ...]
    passing_quota: int = 0
    unmatched: int = 0
    is_denied: bool = False
    is_domain_known: bool = True
    headers: HeaderStyle = HeaderStyle.NONE
    unknown_tiers: int = 0
    is_blocked: bool = False


class CheckResult(NamedTuple):
    """What the store decided for one check.

    `used_before` and `used_after` bracket this check in the serial order of its batch, as if it
    were charged; `used_final` is what the counter holds once the whole request was charged or
    rolled back. `reset_us` is the time to the window's end; `retry_after_us` the time until the
    same cost may be admitted, or -1 for never.
    """

    is_over: bool
    used_before: int
    used_after: int
    used_final: int
    reset_us: int
    retry_after_us: int
    is_overflowed: bool = False


class Reply(NamedTuple):
    """The store's answer to one plan: one result per check, in order; `now_us` is its clock.

    `is_stale` says that nothing was decided, and so nothing admitted: no period of a calendar holds
    the store's time.
    """

    now_us: int
    is_refused: bool
    results: Sequence[CheckResult]
    is_stale: bool = False
