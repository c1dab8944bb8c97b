"""ShouldRateLimit: a message becomes a request, a plan, a reply, a verdict, a message.

Rules:
- One await on the store. Everything before and after it is pure.
- A request is answered by its own deadline, less ANSWER_MARGIN_S for the way back.
- No decision from the store is never an exception to the caller unless a rule says `error`.
- A calendar's periods are those around our clock; where the store's is in none of them it decides
  nothing and names its time, and is asked once more with the periods around that.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.deny_cache import DenyCache
from ratelimitd.decisions.facts import Facts
from ratelimitd.decisions.failure import failed_counts, failure_policy, fold_failure
from ratelimitd.decisions.fold import fold
from ratelimitd.decisions.found import Scene
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.decisions.planning import make_plan
from ratelimitd.decisions.request import Descriptor, Request
from ratelimitd.decisions.shown import short_fingerprint
from ratelimitd.decisions.subject import Subject
from ratelimitd.decisions.verdict import Code, RuleOutcome, Verdict
from ratelimitd.decisions.who import subject_field
from ratelimitd.errors import StoreError, StoreUnavailable
from ratelimitd.policy.model import Domain, FailurePolicy
from ratelimitd.services.context import CallContext
from ratelimitd.services.convert import RequestBounds, from_rls_request, to_rls_response
from ratelimitd.services.directory import Directory, NoDirectory
from ratelimitd.services.local_counters import LocalCounters
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.services.policy_now import PolicyNow, Scenery
from ratelimitd.services.store_access import StoreAccess
from ratelimitd.services.subject_cache import UNKNOWN
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.refusals import RefusalLog, trace_id

US_PER_S = 1_000_000

# What an answer needs to reach a caller that waits exactly as long as it said.
ANSWER_MARGIN_S = 0.002

# For callers that set no deadline of their own; the store's own timeout is below it.
DEFAULT_DEADLINE_S = 0.5

METHOD = "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"

NOT_USABLE = "store: not usable since the start"
CLOCK_JUMPED = "store: its clock is in no period of the calendar, also after it named its time"

_REFUSALS = frozenset(
    {RuleOutcome.REFUSED, RuleOutcome.FAILED_CLOSED, RuleOutcome.FAILED_LOCAL_REFUSED}
)


@dataclass(slots=True, kw_only=True)
class RateLimitService:
    """Envoy's RateLimitService; knows no transport. `now_us` is a monotonic clock."""

    holder: PolicyHolder
    store: StoreAccess
    options: DecisionOptions
    telemetry: Telemetry
    refusals: RefusalLog
    now_us: Callable[[], int]
    deny_cache: DenyCache
    local: LocalCounters
    bounds: RequestBounds = field(default_factory=RequestBounds)
    directory: Directory = field(default_factory=NoDirectory)
    # Microseconds since the Unix epoch: periods, ends of blocks, limits that exist at some times.
    wall_us: Callable[[], int] = field(default=lambda: time.time_ns() // 1000)
    policy_now: PolicyNow = field(init=False)
    # Stands in until the store's own secret is known; such plans are never sent.
    _fallback_secret: bytes = field(default_factory=lambda: os.urandom(32), repr=False)

    def __post_init__(self) -> None:
        """Follow the policy through time."""
        self.policy_now = PolicyNow(self.holder, self.directory)
        self.holder.listeners.append(self.policy_now.forget)

    async def should_rate_limit(
        self, message: rls_pb2.RateLimitRequest, context: CallContext
    ) -> rls_pb2.RateLimitResponse:
        """Decide and charge one request.

        Raises InvalidRequest, NotPermitted, NotReady, or StoreError where a rule's failure policy
        is `error`.
        """
        request = from_rls_request(message, self.bounds)
        if context.caller is not None:
            context.caller.check_domain(METHOD, request.domain)
        return to_rls_response(await self._decide(request, context))

    async def plan(
        self, message: rls_pb2.RateLimitRequest, context: CallContext | None = None
    ) -> Plan:
        """Return the plan of a message under the policy in force; InvalidRequest, NotReady."""
        request = from_rls_request(message, self.bounds)
        await self._meet(request, answer_within_s(context or CallContext()))
        return self.plan_at(request, self.wall_us())

    def plan_at(self, request: Request, wall_us: int) -> Plan:
        """Return the plan of a request at a time, with what is known of its subjects now."""
        now = self.policy_now.at(wall_us)
        facts = self._facts(now, request, wall_us)
        return make_plan(now.policy, request, self.options, self.hash_secret, facts)

    def plan_again(self, request: Request, store_us: int) -> Plan:
        """Return the plan of a request by the store's clock, which is far from ours."""
        now = self.policy_now.look(store_us)
        facts = self._facts(now, request, store_us)
        return make_plan(now.policy, request, self.options, self.hash_secret, facts)

    def scene_at(self, request: Request, wall_us: int) -> Scene | None:
        """Return what the descriptors of a request have in common; None for an unknown domain."""
        now = self.policy_now.at(wall_us)
        domain = now.policy.domains.get(request.domain)
        if domain is None:
            return None
        return Scene(domain, self.options, self.hash_secret, self._facts(now, request, wall_us))

    def _facts(self, now: Scenery, request: Request, wall_us: int) -> Facts:
        facts = now.facts._replace(now_us=wall_us)
        domain = now.policy.domains.get(request.domain)
        if domain is not None and domain.subjects is not None:
            facts = facts._replace(subjects=self._records(domain, request))
        return facts

    async def _meet(self, request: Request, timeout_s: float) -> None:
        """Wait until the directory knows the subjects of a request, or gave up."""
        domain = self.policy_now.at(self.wall_us()).policy.domains.get(request.domain)
        if domain is None or domain.subjects is None:
            return
        fields = [
            field
            for one in request.descriptors
            if (field := subject_field(domain, one.entries, self.hash_secret))
            and self.directory.get(field) is UNKNOWN
        ]
        if not fields:
            return
        known = asyncio.Event()
        self.directory.want(fields, lambda _: known.set())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(known.wait(), timeout_s)

    def _records(self, domain: Domain, request: Request) -> dict[str, Subject | None]:
        records: dict[str, Subject | None] = {}
        for one in request.descriptors:
            field = subject_field(domain, one.entries, self.hash_secret)
            found = self.directory.get(field) if field else UNKNOWN
            if found is not UNKNOWN:
                records[field] = found
        return records

    @property
    def hash_secret(self) -> bytes:
        """The secret behind fingerprints: the store's, or our own until that is known."""
        return self.store.hash_secret or self._fallback_secret

    def answer_at_once(self, plan: Plan, now_us: int, context: CallContext) -> Verdict | None:
        """Return the verdict on a plan that needs no store now, or None if it must be asked."""
        if not plan.checks:
            return self._conclude(fold(plan, None, self.options, now_us=self.wall_us()), context)
        cached = self.deny_cache.answer(plan, now_us)
        if cached is None:
            return None
        return self._conclude(fold(plan, cached, self.options, is_cached=True), context)

    def answer_reply(
        self, plan: Plan, reply: Reply | StoreError, sent_us: int, context: CallContext
    ) -> Verdict | StoreError:
        """Return the verdict on a plan that the store decided, or did not.

        It is the store's error where a rule's failure policy is `error`.
        """
        if isinstance(reply, Reply) and reply.is_stale:
            reply = StoreUnavailable(CLOCK_JUMPED)
        if isinstance(reply, StoreError):
            if failure_policy(plan) is FailurePolicy.ERROR:
                self.telemetry.observe_failed(failed_counts(plan))
                return reply
            return self._conclude(fold_failure(plan, self.local.decide, self.options), context)
        self.deny_cache.remember(plan, reply, sent_us)
        return self._conclude(fold(plan, reply, self.options), context)

    async def _decide(self, request: Request, context: CallContext) -> Verdict:
        # One deadline for all that is waited for.
        deadline_s = self.store.now_s() + answer_within_s(context)
        await self._meet(request, answer_within_s(context))
        plan = self.plan_at(request, self.wall_us())
        sent_us = self.now_us()
        verdict = self.answer_at_once(plan, sent_us, context)
        if verdict is not None:
            return verdict
        try:
            reply: Reply | StoreError = await self._ask(plan, deadline_s)
            if isinstance(reply, Reply) and reply.is_stale:
                self.telemetry.stale_period()
                plan = self.plan_again(request, reply.now_us)
                reply = await self._ask(plan, deadline_s)
        except StoreError as error:
            reply = error
        answered = self.answer_reply(plan, reply, sent_us, context)
        if isinstance(answered, StoreError):
            raise answered
        return answered

    async def _ask(self, plan: Plan, deadline_s: float) -> Reply:
        if self.store.hash_secret is None:
            raise self.not_usable()
        return await self.store.check(plan, timeout_s=deadline_s - self.store.now_s())

    def not_usable(self) -> StoreUnavailable:
        """Return why nothing is asked of the store: its secret is not known."""
        problem = self.store.problem
        return StoreUnavailable(f"{NOT_USABLE}: {problem}" if problem else NOT_USABLE)

    def _conclude(self, verdict: Verdict, context: CallContext) -> Verdict:
        """Count a verdict, and log a refusal."""
        self.telemetry.observe_verdict(verdict)
        if verdict.code is Code.OVER_LIMIT:
            self._log_refusal(verdict, context)
        return verdict

    def _log_refusal(self, verdict: Verdict, context: CallContext) -> None:
        plan = verdict.plan
        now_s = self.now_us() / US_PER_S
        trace = trace_id(context.trace_parent or "")
        counts = iter(verdict.counts)
        for descriptor, planned in zip(plan.request.descriptors, plan.descriptors, strict=True):
            for count in islice(counts, planned.check_count if planned.check is not None else 0):
                if count.outcome in _REFUSALS:
                    self.refusals.refused(
                        count.limit,
                        fingerprint=partial(self._fingerprint, descriptor),
                        trace_id=trace,
                        revision=plan.policy_revision,
                        now_s=now_s,
                    )

    def _fingerprint(self, descriptor: Descriptor) -> str:
        """Return what stands for all values of a descriptor in the log."""
        return short_fingerprint(self.hash_secret, repr(descriptor.entries))


def answer_within_s(context: CallContext) -> float:
    """Return how long the store may take for a call."""
    if context.timeout_s is None:
        return DEFAULT_DEADLINE_S
    return context.timeout_s - ANSWER_MARGIN_S
