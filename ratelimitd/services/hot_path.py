"""ShouldRateLimit from bytes to bytes, for a transport that hands over all calls of a read at once.

Rules:
- Nothing here awaits: a call is answered at once, or when its batch comes back.
- The same decisions as `RateLimitService.should_rate_limit`, by the same functions; what depends
  on policy and request bytes alone is remembered.
- Whatever becomes of a call, it is answered once. Answers to one read go back together.
- Calls whose subjects the directory does not know wait for it, all of a read with one question.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Final

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.plan import Reply
from ratelimitd.errors import StoreError
from ratelimitd.services.encode import encode_response
from ratelimitd.services.hot_calls import Call, Head, Replies, to_context
from ratelimitd.services.meeting import Meeting, Unmet
from ratelimitd.services.parse import parse_request
from ratelimitd.services.plan_cache import PlanCache
from ratelimitd.services.planner import Planner
from ratelimitd.services.ratelimit import (
    ANSWER_MARGIN_S,
    METHOD,
    US_PER_S,
    RateLimitService,
)
from ratelimitd.services.ready_plan import Outline, ReadyPlan
from ratelimitd.store.batcher import Waiting
from ratelimitd.store.port import Answer
from ratelimitd.store.wire import pack_plan

_NO_PLANS: Final[Mapping[bytes, ReadyPlan]] = MappingProxyType({})


class HotPath:
    """The rate-limit service for encoded requests."""

    def __init__(self, service: RateLimitService, default_deadline_s: float) -> None:
        """Decide with `service`; a call without a deadline gets the default one."""
        self._service = service
        self._default_s = default_deadline_s
        self._planner: Planner | None = None
        self._plans = PlanCache(_nothing)
        # One object, by which the batcher sees that a whole batch is ours.
        self._take = self.take
        service.holder.listeners.append(self.forget)

    @property
    def plans(self) -> PlanCache:
        """The plans that are remembered."""
        return self._plans

    def forget(self) -> None:
        """Hold on to nothing of a policy that was replaced, also while nobody asks."""
        self._planner = None
        self._plans = PlanCache(_nothing)

    def serve(self, calls: Sequence[Call], replies: Replies) -> None:
        """Answer all calls of a read, each now or later; raises nothing."""
        done: list[tuple[int, bytes]] = []
        unmet: list[Unmet] = []
        self._serve(calls, replies, done, unmet)
        if done:
            replies.answer_all(done)
        if unmet:
            self._meet(unmet, replies)

    def _serve(  # noqa: C901 - a call's straight line, without calls of Python for its steps
        self,
        calls: Sequence[Call],
        replies: Replies,
        done: list[tuple[int, bytes]],
        unmet: list[Unmet] | None,
        planned: Mapping[bytes, ReadyPlan] = _NO_PLANS,
    ) -> None:
        """Answer calls into `done`, or send them; `unmet` takes those whose subject is not known.

        Without it they are decided as if the registry had no record of it; `planned` are plans
        that were made of their bodies already.
        """
        service = self._service
        store = service.store
        now_us = service.now_us()
        now_s = store.now_s()
        default_s = now_s + self._default_s - ANSWER_MARGIN_S
        try:
            plans = self._follow()
        except Exception as error:  # noqa: BLE001 - told to the callers, whatever it is
            for number, _, _ in calls:
                replies.fail(number, error)
            return
        get_plan = partial(self._planned, planned) if planned else plans.get
        submit, take = store.submit, self._take
        caller = replies.caller
        is_known = store.hash_secret is not None
        may_refuse = service.deny_cache.may_refuse
        for call in calls:
            number, head, body = call
            try:
                if caller is not None:
                    # Before anything is remembered for it.
                    domain = parse_request(rls_pb2.RateLimitRequest, body).domain
                    caller.check_domain(METHOD, domain)
                ready = get_plan(body)
                if ready.subjects:
                    if not ready.missing or unmet is None:
                        ready = self._with_subjects(ready, plans)
                    if ready.missing and unmet is not None:
                        unmet.append((call, ready))
                        continue
                ticket = (ready, replies, number, head, now_us, False)
                if not ready.keys or may_refuse(ready.keys):
                    context = to_context(head, self._default_s)
                    verdict = service.answer_at_once(ready.plan, now_us, context)
                    if verdict is not None:
                        done.append((number, encode_response(verdict)))
                        continue
                if not is_known:
                    self._conclude(ticket, service.not_usable(), done)
                    continue
                timeout_s = head.timeout_s
                deadline_s = default_s if timeout_s is None else now_s + timeout_s - ANSWER_MARGIN_S
                submit(ready, deadline_s, take, ticket)
            except Exception as error:  # noqa: BLE001 - as above
                replies.fail(number, error)

    @staticmethod
    def _with_subjects(ready: ReadyPlan, plans: PlanCache) -> ReadyPlan:
        """Return a plan that was made with what is known of its subjects now."""
        return ready if ready.maker.is_current(ready) else plans.renew(ready.body)

    def _planned(self, planned: Mapping[bytes, ReadyPlan], body: bytes) -> ReadyPlan:
        """Return the plan that was made of a body, unless another policy is in force by now."""
        ready = planned.get(body)
        if ready is None or ready.maker is not self._planner:
            return self._plans.get(body)
        return ready

    def _meet(self, unmet: Sequence[Unmet], replies: Replies) -> None:
        """Serve calls once the directory knows their subjects."""

        def serve(calls: Sequence[Call], planned: Mapping[bytes, ReadyPlan]) -> None:
            done: list[tuple[int, bytes]] = []
            self._serve(calls, replies, done, None, planned)
            if done:
                replies.answer_all(done)

        service = self._service
        try:
            meeting = Meeting(unmet, serve, service.store.now_s, self._default_s)
            meeting.begin(service.directory, 2 * ANSWER_MARGIN_S)
        except Exception as error:  # noqa: BLE001 - told to the callers, whatever it is
            for (number, _, _), _ in unmet:
                replies.fail(number, error)

    def _patience_s(self, head: Head) -> float:
        return self._default_s if head.timeout_s is None else head.timeout_s

    def take(self, batch: Sequence[Waiting], answers: Sequence[Answer]) -> None:
        """Answer the calls of a batch; those of one read stand together."""
        telemetry = self._service.telemetry
        replies: Replies | None = None
        done: list[tuple[int, bytes]] = []
        for waiting, answer in zip(batch, answers, strict=True):
            ticket = waiting.ticket
            ready, own_replies, number, _, _, _ = ticket
            if own_replies is not replies:
                if replies is not None and done:
                    replies.answer_all(done)
                replies, done = own_replies, []
            try:
                encoded = None
                if not isinstance(answer, Exception):
                    encoded = ready.outline.admit(answer, telemetry)
                if encoded is None:
                    self._conclude(ticket, answer, done)
                else:
                    done.append((number, encoded))
            except Exception as error:  # noqa: BLE001 - told to the caller, whatever it is
                own_replies.fail(number, error)
        if replies is not None and done:
            replies.answer_all(done)

    def _conclude(self, ticket: "_Ticket", answer: Answer, done: list[tuple[int, bytes]]) -> None:
        """Answer a call that is not a common one: into `done`, or with the store's error.

        The error is handed on and never raised: it may be the same one for many calls.
        """
        ready, replies, number, head, sent_us, is_again = ticket
        context = to_context(head, self._default_s)
        if isinstance(answer, Reply) and answer.is_stale and not is_again:
            self._ask_again(ticket, answer.now_us)
            return
        verdict = self._service.answer_reply(ready.plan, answer, sent_us, context)
        if isinstance(verdict, StoreError):
            replies.fail(number, verdict)
        else:
            done.append((number, encode_response(verdict)))

    def _ask_again(self, ticket: "_Ticket", store_us: int) -> None:
        """Send a call once more, with calendar periods around the store's own time."""
        service = self._service
        service.telemetry.stale_period()
        ready, replies, number, head, sent_us, _ = ticket
        packed = pack_plan(service.plan_again(ready.plan.request, store_us))
        outline = Outline(packed.plan, service.options)
        fresh = ReadyPlan(
            outline, packed.shape, packed.keys, ready.body, packed.plan, ready.maker, packed.slots
        )
        waited_s = (service.now_us() - sent_us) / US_PER_S
        left_s = self._patience_s(head) - waited_s - ANSWER_MARGIN_S
        again = (fresh, replies, number, head, sent_us, True)
        service.store.submit(fresh, service.store.now_s() + left_s, self._take, again)

    def _follow(self) -> PlanCache:
        """Return the plans of the policy, the facts and the secret in force."""
        service, planner, plans = self._service, self._planner, self._plans
        now, secret = service.policy_now.at(service.wall_us()), service.hash_secret
        if planner is None or planner.facts is not now.facts or planner.hash_secret is not secret:
            planner = self._planner = Planner(
                now.policy,
                service.options,
                secret,
                service.bounds,
                now.facts,
                service.directory,
            )
            plans = self._plans = PlanCache(planner.plan)
        return plans


_Ticket = tuple[ReadyPlan, Replies, int, Head, int, bool]


def _nothing(_: bytes) -> ReadyPlan:
    raise AssertionError("there is no policy yet")
