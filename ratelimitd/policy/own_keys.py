"""The keys of ours that a limit and `defaults:` share, and what they are where nothing is said.

Rules:
- A rule with the reference server's keys only behaves as there: denied hits count, and an
  override in a request replaces the whole rule.
- Once a rule uses a key of ours, itself or through `defaults`, denied hits do not count, an
  override keeps the rule, and a refusal has a body, unless it says otherwise.
"""

from dataclasses import dataclass
from enum import StrEnum

from ratelimitd.policy.fields import (
    read_choice,
    read_flag,
    read_integer,
    read_text,
    value_of,
)
from ratelimitd.policy.model import Algorithm, FailurePolicy
from ratelimitd.policy.nodes import MapNode, Scalar
from ratelimitd.policy.report import Report

# Keys of ours about deciding; one of them changes the defaults of the rest.
DECIDING_KEYS = (
    "algorithm",
    "anchor_day",
    "burst",
    "calendar",
    "count_denied",
    "from",
    "max_debt",
    "max_new_keys_per_second",
    "on_store_failure",
    "override",
    "retry_jitter",
    "scope",
    "slot",
    "slot_ttl",
    "timezone",
    "until",
    "window",
)

# Another name of gcra, which holds the same state as a bucket of tokens.
ALIASES = {"token_bucket": Algorithm.GCRA}

MAX_JITTER = 50
MAX_NEW_KEYS = 1_000_000


class OverrideMode(StrEnum):
    """What an override in a request replaces: number and unit only, or the whole rule."""

    KEEP = "keep"
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What `defaults:` says for the rules of one file that do not say it themselves.

    `refusal_body` is None where nothing is said, and empty for no body.
    """

    uses_own_keys: bool = False
    algorithm: Algorithm = Algorithm.FIXED_WINDOW
    on_store_failure: FailurePolicy = FailurePolicy.ERROR
    counts_denied: bool | None = None
    override: OverrideMode | None = None
    refusal_body: str | None = None
    retry_jitter: int = 0
    max_new_keys_per_second: int = 0

    @property
    def charges_denied(self) -> bool:
        """Whether denied hits count: as said, else where no key of ours is used."""
        return not self.uses_own_keys if self.counts_denied is None else self.counts_denied

    @property
    def has_upstream_override(self) -> bool:
        """Whether an override replaces the rule: as said, else where no key of ours is used."""
        if self.override is None:
            return not self.uses_own_keys
        return self.override is OverrideMode.UPSTREAM


def read_defaults(node: MapNode | None, path: str, report: Report) -> Defaults:
    """Return the defaults of one file."""
    if node is None:
        return Defaults()
    return read_own_keys(node, path, report, Defaults())


def read_own_keys(
    node: MapNode, path: str, report: Report, defaults: Defaults, *, is_extended: bool = False
) -> Defaults:
    """Return what a map says with our keys, `defaults` where it is silent.

    `is_extended` says that the limit uses one of ours elsewhere.
    """
    counts_denied = defaults.counts_denied
    if value_of(node, "count_denied") is not None:
        counts_denied = read_flag(
            node, "count_denied", path, report, default=counts_denied is not False
        )
    override = defaults.override
    if value_of(node, "override") is not None:
        override = read_choice(
            node, "override", path, report, default=override or OverrideMode.KEEP
        )
    refusal_body = defaults.refusal_body
    if value_of(node, "refusal_body") is not None:
        refusal_body = read_text(node, "refusal_body", path, report)
    jitter = read_integer(node, "retry_jitter", path, report, largest=MAX_JITTER)
    new_keys = read_integer(
        node, "max_new_keys_per_second", path, report, smallest=1, largest=MAX_NEW_KEYS
    )
    return Defaults(
        uses_own_keys=is_extended
        or defaults.uses_own_keys
        or any(value_of(node, name) for name in DECIDING_KEYS),
        algorithm=_read_algorithm(node, path, report, defaults.algorithm),
        on_store_failure=read_choice(
            node, "on_store_failure", path, report, default=defaults.on_store_failure
        ),
        counts_denied=counts_denied,
        override=override,
        refusal_body=refusal_body,
        retry_jitter=defaults.retry_jitter if jitter is None else jitter,
        max_new_keys_per_second=(
            defaults.max_new_keys_per_second if new_keys is None else new_keys
        ),
    )


def _read_algorithm(node: MapNode, path: str, report: Report, default: Algorithm) -> Algorithm:
    value = value_of(node, "algorithm")
    if isinstance(value, Scalar) and value.text in ALIASES:
        return ALIASES[value.text]
    return read_choice(node, "algorithm", path, report, default=default)
