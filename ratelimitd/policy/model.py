"""A compiled policy: immutable values, shared by every request until the next reload.

Rules:
- A policy is replaced whole; nothing in it changes after it was compiled.
- Times are microseconds (`_us`), amounts are integers from 0 to 2^53 - 1.
- Nothing here knows a file, a clock or a store.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from ratelimitd.json_value import JsonObject

DEFAULT_SECRET_KEYS = frozenset({"api_key", "authorization", "token", "cookie", "x-api-key"})


class Unit(IntEnum):
    """Envoy's RateLimitResponse.RateLimit.Unit, with its wire numbers."""

    UNKNOWN = 0
    SECOND = 1
    MINUTE = 2
    HOUR = 3
    DAY = 4
    MONTH = 5
    YEAR = 6
    WEEK = 7


# As the reference server counts them: aligned to the Unix epoch, a month is 30 days, a year 365.
WINDOW_US: Mapping[Unit, int] = {
    Unit.SECOND: 1_000_000,
    Unit.MINUTE: 60_000_000,
    Unit.HOUR: 3_600_000_000,
    Unit.DAY: 86_400_000_000,
    Unit.WEEK: 7 * 86_400_000_000,
    Unit.MONTH: 30 * 86_400_000_000,
    Unit.YEAR: 365 * 86_400_000_000,
}


class Algorithm(StrEnum):
    """How a limit counts."""

    FIXED_WINDOW = "fixed_window"
    SLIDING_WINDOW = "sliding_window"
    GCRA = "gcra"
    CONCURRENCY = "concurrency"


class Scope(StrEnum):
    """Who shares a counter of a limit: one matched value, all of a tier, or everybody."""

    SUBJECT = "subject"
    TIER = "tier"
    GLOBAL = "global"


class HeaderStyle(StrEnum):
    """Which response headers tell a client where it stands."""

    NONE = "none"
    UPSTREAM = "upstream"
    IETF = "ietf"


class FailurePolicy(StrEnum):
    """What a rule answers when the store gives no decision, strongest first."""

    ERROR = "error"
    DENY = "deny"
    LOCAL = "local"
    ALLOW = "allow"


class NoMatch(StrEnum):
    """What a domain answers to a descriptor that no rule matches."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a rule stands; `line` and `column` count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        """Return `file:line:column`."""
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Calendar:
    """Real calendar periods in an IANA zone: `unit` is DAY, WEEK, MONTH or YEAR.

    `anchor_day` is the day on which a month begins, from 1 to 31; in a shorter month its last day
    stands in. It is 1 for the other units.
    """

    unit: Unit
    timezone: str = "UTC"
    anchor_day: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A configured rule: how much, in which window, and what happens beyond it.

    `rule` names the rule for metrics, logs and people: its domain, then `key` or `key_value` of
    each level, joined by dots, as the reference server prints it. `name` is what `replaces` and
    `current_limit.name` use; it may be empty and need not be unique.

    `requests_per_unit` is what holds where `tiers` names nothing else. `burst` and `max_debt`, of
    gcra, follow it where they are None: see `capacity` and `debt`. `window_us` is 0 for
    concurrency, whose slots live `slot_ttl_us`, and the shortest period for a `calendar`.
    `from_us` and `until_us` bound, the latter excluded, when the limit exists at all.
    `retry_jitter` is in percent. `max_new_keys_per_second` 0 does not bound. `has_siblings` says
    that the descriptor has others, be they away at the time or not.
    """

    domain: str
    rule: str
    position: Position
    name: str = ""
    algorithm: Algorithm = Algorithm.FIXED_WINDOW
    unit: Unit = Unit.UNKNOWN
    window_us: int = 0
    calendar: Calendar | None = None
    requests_per_unit: int = 0
    tiers: Mapping[str, int] = field(default_factory=dict, hash=False)
    burst: int | None = None
    max_debt: int | None = None
    scope: Scope = Scope.SUBJECT
    slot: str = ""
    slot_ttl_us: int = 0
    from_us: int | None = None
    until_us: int | None = None
    max_new_keys_per_second: int = 0
    is_unlimited: bool = False
    replaces: frozenset[str] = frozenset()
    is_shadow: bool = False
    is_quota: bool = False
    counts_denied: bool = True
    is_sensitive: bool = False
    on_store_failure: FailurePolicy = FailurePolicy.ERROR
    refusal_body: str = ""
    has_problem_body: bool = False
    retry_jitter: int = 0
    has_upstream_override: bool = True
    has_detailed_metric: bool = False
    has_siblings: bool = False
    metadata: JsonObject | None = None

    @property
    def capacity(self) -> int:
        """How much may come at once: the burst of gcra, else the amount itself; 0 of nothing."""
        if self.burst is None or not self.requests_per_unit:
            return self.requests_per_unit
        return self.burst

    @property
    def debt(self) -> int:
        """How far gcra may be charged beyond its burst; one burst where nothing is said."""
        return self.capacity if self.max_debt is None else self.max_debt

    @property
    def is_timed(self) -> bool:
        """Whether there are times at which the limit does not exist."""
        return self.from_us is not None or self.until_us is not None


@dataclass(frozen=True, slots=True)
class Subjects:
    """Whose tier counts in a domain: the entry `key`; `tier` is the entry that may carry it.

    The tier entry is taken out before matching; what it says is believed only if it is trusted.
    """

    key: str
    tier: str = ""
    trusts_tier_entry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One level of the tree: the children that a further entry can reach, and this level's limit.

    `exact` is keyed by joined names, `key_value` or `key`, as the reference server joins them.
    `limits` are decided together, all or nothing; there are none at a path node or a whitelist.
    `has_times` says that a limit here or below exists at some times only. `key` is how its entry
    is called, `label` the name as it may be printed, and `metric_key` the labels from the top to
    here; where `needs_metric_walk`, metrics show values.
    """

    name: str
    rule: str
    position: Position
    limits: tuple[Limit, ...] = ()
    exact: Mapping[str, "Node"]
    wildcards: tuple["Wildcard", ...] = ()
    has_value: bool = False
    is_shared: bool = False
    has_value_metric: bool = False
    is_sensitive: bool = False
    label: str = ""
    metric_key: str = ""
    needs_metric_walk: bool = False
    has_times: bool = False
    key: str = ""

    @property
    def limit(self) -> Limit | None:
        """The first limit, which stands for all of them where one is named."""
        return self.limits[0] if self.limits else None


@dataclass(frozen=True, slots=True)
class Wildcard:
    """A child whose joined name holds `*`: `pieces` is that name split on it."""

    pieces: tuple[str, ...]
    node: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One domain: the root of its tree and what holds for the whole of it.

    `on_store_failure` and `counts_denied` are for the limits that requests bring themselves.
    `attributes` are the keys of entries that are taken out before matching: the tier and slots.
    `calendars` are those that its limits use. `headers` is None where the daemon decides.
    `hidden_keys` are the secret keys, and those of sensitive rules.
    """

    name: str
    root: Node
    position: Position
    on_no_match: NoMatch = NoMatch.ALLOW
    on_store_failure: FailurePolicy = FailurePolicy.ERROR
    counts_denied: bool = True
    secret_keys: frozenset[str] = DEFAULT_SECRET_KEYS
    subjects: Subjects | None = None
    attributes: frozenset[str] = frozenset()
    partition_by: str = ""
    headers: HeaderStyle | None = None
    calendars: frozenset[Calendar] = frozenset()
    hidden_keys: frozenset[str] = DEFAULT_SECRET_KEYS


@dataclass(frozen=True, slots=True)
class Policy:
    """All domains; `revision` is 16 hex digits of a hash over the files' names and contents."""

    revision: str
    domains: Mapping[str, Domain]
