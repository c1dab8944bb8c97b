"""What services and the store tell about themselves, as plain integers.

Rules:
- Every method is cheap enough for each request, awaits nothing and never raises.
- Labels come from the policy or from a fixed list, never from a request.
- No clock: a time is an argument. One Telemetry belongs to one event loop; a scrape may read
  it from a thread.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum

from ratelimitd.decisions.verdict import RuleCount, Verdict
from ratelimitd.policy.loaded import RuleNames
from ratelimitd.policy.model import Policy
from ratelimitd.telemetry.series import Histogram, RuleTable, names_of

# Envoy waits 20 ms by default: the bounds around it tell "close" from "too late".
SECONDS_BOUNDS = (
    *(0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0),
)
# Powers of two up to the largest batch.
SIZE_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)

# Methods, status codes and kinds of error are short fixed lists; the bound holds if they are not.
MAX_NAMES = 64
OTHER = "other"


class BreakerState(StrEnum):
    """Whether the store is asked, or left alone until it answers a probe."""

    CLOSED = "closed"
    OPEN = "open"


class MethodSeries:
    """The calls of one method: how long they took and how they ended."""

    __slots__ = ("codes", "seconds")

    def __init__(self) -> None:
        """Start empty."""
        self.codes: dict[str, int] = {}
        self.seconds = Histogram(SECONDS_BOUNDS)


class StoreSeries:
    """The calls to the store and what it says of itself."""

    __slots__ = (
        "breaker",
        "breaker_opened",
        "checks",
        "errors",
        "evicted_keys",
        "give_backs_done",
        "give_backs_lost",
        "keys",
        "late_answers",
        "lost_debt",
        "max_memory_bytes",
        "plans",
        "queued_checks",
        "seconds",
        "unreadable_states",
        "used_memory_bytes",
    )

    def __init__(self) -> None:
        """Start empty, with a closed breaker."""
        self.seconds = Histogram(SECONDS_BOUNDS)
        self.checks = Histogram(SIZE_BOUNDS)
        self.plans = Histogram(SIZE_BOUNDS)
        self.errors: dict[str, int] = {}
        self.breaker = BreakerState.CLOSED
        self.breaker_opened = 0
        self.queued_checks = 0
        self.late_answers = 0
        self.unreadable_states = 0
        self.give_backs_done = 0
        self.give_backs_lost = 0
        self.lost_debt = 0
        self.used_memory_bytes: int | None = None
        self.max_memory_bytes: int | None = None
        self.evicted_keys: int | None = None
        self.keys: int | None = None


class PolicySeries:
    """The policy in force and how its loads went."""

    __slots__ = (
        "domains",
        "errors",
        "is_last_load_ok",
        "last_success_s",
        "revision",
        "rules",
        "successes",
    )

    def __init__(self) -> None:
        """Start without a policy."""
        self.revision = ""
        self.domains = 0
        self.rules = 0
        self.successes = 0
        self.errors = 0
        self.is_last_load_ok = False
        self.last_success_s = 0.0


class LogSeries:
    """What the log left out; each field has one writer."""

    __slots__ = ("dropped_full", "dropped_unwritable", "suppressed_refusals")

    def __init__(self) -> None:
        """Start at zero."""
        self.dropped_full = 0
        self.dropped_unwritable = 0
        self.suppressed_refusals = 0


class WorkerSeries:
    """How busy one process is that answers requests."""

    __slots__ = (
        "certificate_not_after_s",
        "connections_grpc",
        "connections_http",
        "cpu_seconds",
        "queue_depth",
        "resident_bytes",
        "utilization_ratio",
    )

    def __init__(self) -> None:
        """Start idle; None is what nobody knows."""
        self.certificate_not_after_s: int | None = None
        self.connections_grpc: int | None = None
        self.connections_http: int | None = None
        self.cpu_seconds = 0.0
        self.queue_depth = 0
        self.resident_bytes = 0
        self.utilization_ratio = 0.0


class Telemetry:
    """Everything that is counted in one process; the exposition reads the fields.

    `workers` holds the process itself, by its number, if it answers requests; of a daemon with
    several processes a scrape sees the sum of theirs.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.rules = RuleTable()
        self.unmatched: dict[str, int] = {}
        self.domain_not_found = 0
        self.global_shadow = 0
        self.deny_cache_answers = 0
        self.blocked = 0
        self.unknown_tiers = 0
        self.stale_periods = 0
        self.methods: dict[str, MethodSeries] = {}
        self.store = StoreSeries()
        self.policy = PolicySeries()
        self.logs = LogSeries()
        self.workers: dict[int, WorkerSeries] = {}
        # What our HTTP/2 server counted, by family and label; copied from it once a second.
        self.transport: dict[str, dict[str, int]] = {}
        self.worker_restarts = 0
        self.refused_callers: dict[str, int] = {}

    def observe_verdict(self, verdict: Verdict) -> None:
        """Count one answered request, once for each descriptor that a rule decided."""
        self._count(verdict.counts)
        if verdict.unmatched or not verdict.plan.is_domain_known:
            self._count_unmatched(verdict)
        if verdict.is_shadowed:
            self.global_shadow += 1
        plan = verdict.plan
        if plan.is_blocked:
            self.blocked += 1
        if plan.unknown_tiers:
            self.unknown_tiers += plan.unknown_tiers

    def observe_failed(self, counts: Sequence[RuleCount]) -> None:
        """Count the rules of a request that was answered with an error: it has no verdict."""
        self._count(counts)

    def observe_call(self, method: str, code: str, seconds: float, count: int = 1) -> None:
        """Count calls of `method` that ended with the gRPC status `code`, "OK" for success."""
        series = self.methods.get(method)
        if series is None:
            method = method if len(self.methods) < MAX_NAMES else OTHER
            series = self.methods.setdefault(method, MethodSeries())
        series.seconds.observe(seconds, count)
        _increment(series.codes, code, count)

    def observe_store_call(
        self, seconds: float, checks: int, plans: int, error_kind: str | None = None
    ) -> None:
        """Count one call to the store, sent with `checks` of `plans` requests, failed or not."""
        store = self.store
        store.seconds.observe(seconds)
        store.checks.observe(checks)
        store.plans.observe(plans)
        if error_kind is not None:
            _increment(store.errors, error_kind)

    def store_error(self, kind: str, count: int = 1) -> None:
        """Count batches that were not sent at all."""
        _increment(self.store.errors, kind, count)

    def set_breaker(self, state: BreakerState) -> None:
        """Remember the breaker's state; each change to open is counted."""
        if state is BreakerState.OPEN and self.store.breaker is not BreakerState.OPEN:
            self.store.breaker_opened += 1
        self.store.breaker = state

    def set_queue_depth(self, checks: int) -> None:
        """Remember how many checks wait for the next batch."""
        self.store.queued_checks = checks

    def late_answer(self, count: int = 1) -> None:
        """Count store answers that came after their request was answered by its deadline."""
        self.store.late_answers += count

    def give_backs(self, done: int, lost: int) -> None:
        """Count charges of refused requests that a Cluster took back, and that it did not."""
        self.store.give_backs_done += done
        self.store.give_backs_lost += lost

    def stale_period(self, count: int = 1) -> None:
        """Count requests that are asked again: no period held the store's time."""
        self.stale_periods += count

    def lost_debt(self, amount: int) -> None:
        """Count the cost of denied hits beyond what a limit takes as debt; it was not recorded."""
        self.store.lost_debt += amount

    def unreadable_state(self, count: int = 1) -> None:
        """Count stored values that no version of the script wrote; they were overwritten."""
        self.store.unreadable_states += count

    def store_info(
        self,
        *,
        used_memory_bytes: int | None = None,
        max_memory_bytes: int | None = None,
        evicted_keys: int | None = None,
        keys: int | None = None,
    ) -> None:
        """Remember what the store last said of itself; None where it did not say."""
        store = self.store
        store.used_memory_bytes = used_memory_bytes
        store.max_memory_bytes = max_memory_bytes
        store.evicted_keys = evicted_keys
        store.keys = keys

    def policy_loaded(
        self, policy: Policy, *, now_s: float, names: RuleNames | None = None
    ) -> Iterator[None]:
        """Take over the names of a policy that was just put in force, at Unix time `now_s`.

        Returns steps that are still to be taken; without `names` all of it is done at once.
        """
        is_prepared = names is not None
        names = names_of(policy) if names is None else names
        series = self.policy
        series.revision = policy.revision
        series.domains = len(policy.domains)
        series.rules = names.count
        series.successes += 1
        series.is_last_load_ok = True
        series.last_success_s = now_s
        steps = self.rules.reload(names, policy.domains.keys())
        self.unmatched = {
            domain: count for domain, count in self.unmatched.items() if domain in policy.domains
        }
        return steps if is_prepared else iter(list(steps))

    def policy_load_failed(self) -> None:
        """Count a policy that was refused; the one in force stays."""
        self.policy.errors += 1
        self.policy.is_last_load_ok = False

    def _count(self, counts: Sequence[RuleCount]) -> None:
        """Add what rules said to their rows."""
        table = self.rules
        for count in counts:
            limit = count.limit
            table.row(limit.domain, count.metric_key, limit.rule).add(count)
            if count.cached_hits:
                self.deny_cache_answers += 1

    def _count_unmatched(self, verdict: Verdict) -> None:
        """Count descriptors without a rule; an unknown domain is a value, so it is no label."""
        if not verdict.plan.is_domain_known:
            self.domain_not_found += len(verdict.statuses)
            return
        domain = verdict.plan.request.domain
        self.unmatched[domain] = self.unmatched.get(domain, 0) + verdict.unmatched


def _increment(counts: dict[str, int], name: str, by: int = 1) -> None:
    """Add to `name`, or to `other` once MAX_NAMES names are known."""
    if name in counts:
        counts[name] += by
        return
    name = name if len(counts) < MAX_NAMES else OTHER
    counts[name] = counts.get(name, 0) + by
