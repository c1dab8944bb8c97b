"""Peek and Explain: what an operator asks of a running daemon; neither spends anything."""

from dataclasses import dataclass

from ratelimitd._proto.ratelimitd.inspect.v1 import inspect_pb2
from ratelimitd.decisions.fold import fold
from ratelimitd.decisions.request import Descriptor
from ratelimitd.decisions.shown import short_fingerprint
from ratelimitd.policy.explain import Explanation, explain
from ratelimitd.policy.model import Domain
from ratelimitd.services.context import CallContext
from ratelimitd.services.convert import from_rls_request, to_rls_response
from ratelimitd.services.ratelimit import RateLimitService, answer_within_s


@dataclass(slots=True)
class InspectService:
    """Looks through the eyes of the rate-limit service: same policy, same options, same store."""

    ratelimit: RateLimitService

    async def peek(
        self, message: inspect_pb2.PeekRequest, context: CallContext
    ) -> inspect_pb2.PeekResponse:
        """Answer as ShouldRateLimit would now; the store must be there, whatever rules say."""
        plan = await self.ratelimit.plan(message.request, context)
        if not plan.checks:
            verdict = fold(plan, None, self.ratelimit.options)
        else:
            if self.ratelimit.store.hash_secret is None:
                raise self.ratelimit.not_usable()
            (reply,) = await self.ratelimit.store.peek([plan], timeout_s=answer_within_s(context))
            verdict = fold(plan, reply, self.ratelimit.options)
        return inspect_pb2.PeekResponse(response=to_rls_response(verdict))

    async def explain(
        self, message: inspect_pb2.ExplainRequest, context: CallContext
    ) -> inspect_pb2.ExplainResponse:
        """Tell what each descriptor matches; asks no store."""
        del context
        request = from_rls_request(message.request, self.ratelimit.bounds)
        policy = self.ratelimit.holder.current()
        domain = policy.domains.get(request.domain)
        return inspect_pb2.ExplainResponse(
            descriptors=[
                _to_descriptor(explain(domain, one.entries, hide=self._hide), one, domain)
                for one in request.descriptors
            ],
            policy_revision=policy.revision,
        )

    def _hide(self, value: str) -> str:
        """Return what stands for a secret value: the digits that logs and metadata show."""
        return f"#{short_fingerprint(self.ratelimit.hash_secret, value)}"


def _to_descriptor(
    explanation: Explanation, descriptor: Descriptor, domain: Domain | None
) -> inspect_pb2.ExplainResponse.Descriptor:
    summary = explanation.summary
    if descriptor.override is not None and domain is not None:
        override = descriptor.override
        amount = f"{override.requests_per_unit} per {override.unit.name.lower()}"
        summary = f"The request brings a limit of its own, {amount}. Without it: {summary}"
    return inspect_pb2.ExplainResponse.Descriptor(
        steps=[
            inspect_pb2.ExplainResponse.Step(
                entry=step.entry,
                matched_by=step.matched_by,
                rule=step.rule,
                reason=step.reason,
            )
            for step in explanation.steps
        ],
        limit=explanation.limit,
        position=explanation.position,
        summary=summary,
    )
