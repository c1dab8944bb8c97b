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
from ratelimitd.policy.model import Limit


class Outcome(StrEnum):
    """Why a descriptor is, or is not, checked by the store."""

    CHECKED = "checked"
    NO_MATCH = "no_match"
    NO_MATCH_DENIED = "no_match_denied"
    REPLACED = "replaced"
    UNLIMITED = "unlimited"


class Check(NamedTuple):
    """One limit of one descriptor against one counter; `cost` below 0 is a refund."""

    key: bytes
    limit: Limit
    cost: int


class DescriptorPlan(NamedTuple):
    """What became of one descriptor.

    `limit` is what matched, or None; `metric_key` is its name in metrics; `check` is an index
    into the plan's checks, or None where the store is not asked. `entries` are the descriptor's
    as people may see them: a secret value is its fingerprint's first 8 digits.
    """

    outcome: Outcome
    entries: tuple[tuple[str, str], ...]
    limit: Limit | None = None
    metric_key: str = ""
    cost: int = 1
    check: int | None = None


class Plan(NamedTuple):
    """One request, ready to be decided.

    `passing_quota` counts quota descriptors that pass without the store: with one, an
    all-quota refusal is impossible. `unmatched` counts those that no rule matched.
    `is_denied` says that the request is refused whatever its limits say: a domain refuses what
    no rule matches.
    """

    request: Request
    policy_revision: str
    descriptors: tuple[DescriptorPlan, ...]
    checks: tuple[Check, ...]
    passing_quota: int = 0
    unmatched: int = 0
    is_denied: bool = False
    is_domain_known: bool = True


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


class Reply(NamedTuple):
    """The store's answer to one plan: one result per check, in order; `now_us` is its clock."""

    now_us: int
    is_refused: bool
    results: Sequence[CheckResult]
