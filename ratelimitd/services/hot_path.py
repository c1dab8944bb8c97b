"""ShouldRateLimit from bytes to bytes, for a transport that hands over many calls at once.

Rules:
- Nothing here awaits: a call is answered at once, or when its batch comes back.
- The same decisions as `RateLimitService.should_rate_limit`, by the same functions; only what
  depends on policy and request bytes alone is remembered.
- Whatever becomes of a call, it is answered once.
"""

from collections.abc import Callable
from functools import partial

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.errors import StoreError, StoreUnavailable
from ratelimitd.services.context import CallContext
from ratelimitd.services.encode import encode_response
from ratelimitd.services.parse import parse_request
from ratelimitd.services.plan_cache import PlanCache
from ratelimitd.services.ratelimit import NOT_REACHED, RateLimitService, answer_within_s

# Gets the encoded RateLimitResponse, or the error that the transport's table turns into a status.
Answer = Callable[[bytes | Exception], None]


class HotPath:
    """The rate-limit service for encoded requests."""

    def __init__(self, service: RateLimitService) -> None:
        """Decide with `service`, its policy, store and telemetry."""
        self._service = service
        self._plans = PlanCache(self._make_plan)
        self._revision = ""
        self._secret = b""

    @property
    def plans(self) -> PlanCache:
        """The remembered plans, for metrics."""
        return self._plans

    def serve(self, body: bytes, context: CallContext, answer: Answer) -> None:
        """Answer one call, now or later; raises nothing."""
        service = self._service
        try:
            plan = self._plan(body)
            now_us = service.now_us()
            verdict = service.answer_at_once(plan, now_us, context)
            if verdict is not None:
                answer(encode_response(verdict))
                return
        except Exception as error:  # noqa: BLE001 - told to the caller, whatever it is
            answer(error)
            return
        done = partial(self._on_reply, plan, now_us, context, answer)
        if service.store.hash_secret is None:
            done(StoreUnavailable(NOT_REACHED))
        else:
            service.store.submit(plan, answer_within_s(context), done)

    def _on_reply(
        self,
        plan: Plan,
        sent_us: int,
        context: CallContext,
        answer: Answer,
        reply: Reply | StoreError,
    ) -> None:
        try:
            verdict = self._service.answer_reply(plan, reply, sent_us, context)
            encoded = encode_response(verdict)
        except Exception as error:  # noqa: BLE001 - told to the caller, whatever it is
            answer(error)
        else:
            answer(encoded)

    def _plan(self, body: bytes) -> Plan:
        """Return the plan of a request under the policy and the secret in force."""
        service = self._service
        revision, secret = service.holder.current().revision, service.hash_secret
        if revision != self._revision or secret is not self._secret:
            self._plans.clear()
            self._revision, self._secret = revision, secret
        return self._plans.get(body)

    def _make_plan(self, body: bytes) -> Plan:
        return self._service.plan(parse_request(rls_pb2.RateLimitRequest, body))
