"""Peek and Explain: what an operator asks of a running daemon; neither spends anything."""

from collections.abc import Sequence
from dataclasses import dataclass

from ratelimitd._proto.ratelimitd.inspect.v1 import inspect_pb2
from ratelimitd.decisions.fold import fold
from ratelimitd.decisions.found import Scene, find
from ratelimitd.decisions.plan import Check, DescriptorPlan, Plan
from ratelimitd.decisions.request import Descriptor
from ratelimitd.decisions.shown import short_fingerprint
from ratelimitd.decisions.standing import standing
from ratelimitd.policy.dump import describe_amount
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
            verdict = fold(plan, None, self.ratelimit.options, now_us=self.ratelimit.wall_us())
        else:
            if self.ratelimit.store.hash_secret is None:
                raise self.ratelimit.not_usable()
            (reply,) = await self.ratelimit.store.peek([plan], timeout_s=answer_within_s(context))
            verdict = fold(plan, reply, self.ratelimit.options)
        return inspect_pb2.PeekResponse(response=to_rls_response(verdict))

    async def explain(
        self, message: inspect_pb2.ExplainRequest, context: CallContext
    ) -> inspect_pb2.ExplainResponse:
        """Tell what each descriptor matches, and who asks; no counter is looked at."""
        request = from_rls_request(message.request, self.ratelimit.bounds)
        plan = await self.ratelimit.plan(message.request, context)
        scene = self.ratelimit.scene_at(request, self.ratelimit.wall_us())
        domain = None if scene is None else scene.domain
        told = []
        for one, planned in zip(request.descriptors, plan.descriptors, strict=True):
            explained = explain(domain, one.entries, hide=self._hide)
            message_of = _to_descriptor(explained, one, domain)
            if scene is not None:
                self._add_standing(message_of, scene, one, _checks(plan, planned))
            told.append(message_of)
        return inspect_pb2.ExplainResponse(descriptors=told, policy_revision=plan.policy_revision)

    def _add_standing(
        self,
        told: inspect_pb2.ExplainResponse.Descriptor,
        scene: Scene,
        descriptor: Descriptor,
        checks: Sequence[Check],
    ) -> None:
        """Add who asks, and what holds for them."""
        found = find(scene, descriptor)
        told.tier, told.tier_origin = found.who.tier, found.who.origin
        if found.block is not None:
            told.block = found.block.reason or "without a reason"
        subjects = scene.domain.subjects
        for key, value in descriptor.entries:
            if subjects is not None and key == subjects.key:
                is_secret = key in scene.domain.hidden_keys
                told.subject = f"{key}={self._hide(value) if is_secret else value}"
        for check in checks:
            # Limits need no names; each stands in a place of its own.
            place = check.limit.name, check.limit.position
            rule = next(one for one in found.limits if (one.name, one.position) == place)
            stands = standing(rule, check.limit, found.who)
            told.limits.add(
                name=rule.name,
                scope=rule.scope.value,
                amount=describe_amount(stands.limit),
                reason=stands.reason,
            )

    def _hide(self, value: str) -> str:
        """Return what stands for a secret value: the digits that logs and metadata show."""
        return f"#{short_fingerprint(self.ratelimit.hash_secret, value)}"


def _checks(plan: Plan, planned: DescriptorPlan) -> Sequence[Check]:
    if planned.check is None:
        return ()
    return plan.checks[planned.check : planned.check + planned.check_count]


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
