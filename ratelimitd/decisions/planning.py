"""A request becomes a plan: match descriptors, see who asks, drop what is replaced, name counters.

Rules:
- Plans depend on policy, request, options and facts alone; the hash secret changes keys only.
- `replaces` is resolved over the whole request: two limits that replace each other both go.
- An override in a request replaces number and unit; under a rule with the reference server's
  keys only it also replaces the rule itself. Of several limits it is for the first of a subject.
- A request with a blocked entry is refused, and touches no counter.
"""

from collections.abc import Sequence

from ratelimitd.decisions.facts import NO_FACTS, Facts
from ratelimitd.decisions.found import Found, Scene, find
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import (
    KEYS_WITH_BIRTHS,
    Births,
    Check,
    DescriptorPlan,
    Outcome,
    Periods,
    Plan,
)
from ratelimitd.decisions.recipe import Place, slot_id, to_recipe
from ratelimitd.decisions.request import Descriptor, Request
from ratelimitd.decisions.shown import shown
from ratelimitd.decisions.who import is_unknown_tier, limit_for
from ratelimitd.errors import InvalidRequest
from ratelimitd.policy.calendar import periods
from ratelimitd.policy.match import limit_metric_key
from ratelimitd.policy.model import DEFAULT_SECRET_KEYS, HeaderStyle, Limit, NoMatch, Policy

# Costs saturate where the store's integers end.
MAX_COST = 2**53 - 1
# Of one request; they travel in one call.
MAX_COUNTERS = 1_024


def make_plan(
    policy: Policy,
    request: Request,
    options: DecisionOptions,
    hash_secret: bytes,
    facts: Facts = NO_FACTS,
) -> Plan:
    """Plan `request` under `policy`; `hash_secret` turns secret values into fingerprints."""
    domain = policy.domains.get(request.domain)
    if domain is None:
        return _unknown_domain(policy, request, hash_secret)
    scene = Scene(domain, options, hash_secret, facts)
    found = [find(scene, descriptor) for descriptor in request.descriptors]
    if any(one.block is not None for one in found):
        return _blocked(scene, policy.revision, request, found)
    replaced: frozenset[str] = frozenset()
    for one in found:
        for limit in one.limits:
            if limit.replaces:
                replaced |= limit.replaces
    return _build(scene, policy.revision, request, found, replaced)


def _unknown_domain(policy: Policy, request: Request, hash_secret: bytes) -> Plan:
    return Plan(
        request=request,
        policy_revision=policy.revision,
        descriptors=tuple(
            DescriptorPlan(
                Outcome.NO_MATCH,
                shown(descriptor.entries, DEFAULT_SECRET_KEYS, hash_secret),
                cost=_cost(descriptor, request),
            )
            for descriptor in request.descriptors
        ),
        checks=(),
        unmatched=len(request.descriptors),
        is_domain_known=False,
    )


def _blocked(scene: Scene, revision: str, request: Request, found: Sequence[Found]) -> Plan:
    """Refuse a request for its blocked entries; the other descriptors are not looked at."""
    descriptors = [
        DescriptorPlan(
            Outcome.UNASKED if one.block is None else Outcome.BLOCKED,
            one.entries,
            cost=_cost(descriptor, request),
            blocked_until_us=None if one.block is None else one.block.until_us,
        )
        for descriptor, one in zip(request.descriptors, found, strict=True)
    ]
    return Plan(
        request=request,
        policy_revision=revision,
        descriptors=tuple(descriptors),
        checks=(),
        is_denied=True,
        headers=_header_style(scene),
        is_blocked=True,
    )


def _build(
    scene: Scene,
    revision: str,
    request: Request,
    found: Sequence[Found],
    replaced: frozenset[str],
) -> Plan:
    domain, options = scene.domain, scene.options
    descriptors: list[DescriptorPlan] = []
    checks: list[Check] = []
    passing_quota = unmatched = unknown_tiers = 0
    is_denied = False
    for descriptor, one in zip(request.descriptors, found, strict=True):
        cost = _cost(descriptor, request)
        limits = [limit for limit in one.limits if not limit.name or limit.name not in replaced]
        outcome = _outcome(domain.on_no_match, one, limits)
        index: int | None = None
        if outcome is Outcome.CHECKED:
            index = len(checks)
            for limit in limits:
                unknown_tiers += is_unknown_tier(limit, one.who)
                checks.append(_check(scene, one, limit, cost, is_joined=len(checks) > index))
        elif outcome is not Outcome.UNLIMITED:
            passing_quota += options.is_quota_mode
        unmatched += not one.limits
        is_denied = is_denied or outcome is Outcome.NO_MATCH_DENIED
        first = checks[index].limit if index is not None else None
        if first is None and one.limits:
            first = one.limits[0]
        descriptors.append(
            DescriptorPlan(
                outcome, one.entries, first, one.metric_key, cost, index, max(1, len(limits))
            )
        )
    counters = sum(1 if check.births is None else KEYS_WITH_BIRTHS for check in checks)
    if counters > MAX_COUNTERS:
        raise InvalidRequest(
            f"the descriptors reach limits with {counters} counters, at most {MAX_COUNTERS} are "
            "accepted in one request"
        )
    return Plan(
        request=request,
        policy_revision=revision,
        descriptors=tuple(descriptors),
        checks=tuple(checks),
        passing_quota=passing_quota,
        unmatched=unmatched,
        is_denied=is_denied,
        headers=_header_style(scene),
        unknown_tiers=unknown_tiers,
    )


def _check(scene: Scene, one: Found, limit: Limit, cost: int, *, is_joined: bool) -> Check:
    """Name the counters of one limit, with the number that holds for who asks."""
    place = Place(scene.options, scene.hash_secret, scene.domain.partition_by)
    recipe = to_recipe(limit, one.parts, place, one.who.tier)
    key, *of_new = recipe.keys(one.sent)
    births = None
    if recipe.newcomers is not None:
        births = Births(of_new[0], of_new[1], recipe.newcomers.per_second)
    holder = one.attributes.get(limit.slot) if limit.slot else None
    return Check(
        key,
        limit_for(limit, one.who, is_own_amount=limit is one.own),
        cost,
        is_joined,
        b"" if holder is None else slot_id(holder),
        None if limit.calendar is None else Periods(*periods(limit.calendar, scene.facts.now_us)),
        births,
        limit_metric_key(one.metric_key, one.limits, limit),
    )


def _outcome(on_no_match: NoMatch, one: Found, limits: Sequence[Limit]) -> Outcome:
    if not one.limits:
        is_denied = on_no_match is NoMatch.DENY and not one.is_whitelisted
        return Outcome.NO_MATCH_DENIED if is_denied else Outcome.NO_MATCH
    if not limits:
        return Outcome.REPLACED
    return Outcome.UNLIMITED if limits[0].is_unlimited else Outcome.CHECKED


def _header_style(scene: Scene) -> HeaderStyle:
    if scene.domain.headers is not None:
        return scene.domain.headers
    return HeaderStyle.UPSTREAM if scene.options.has_limit_headers else HeaderStyle.NONE


def _cost(descriptor: Descriptor, request: Request) -> int:
    """Return what a descriptor costs: its own addend, else the request's, where 0 means 1."""
    sent = descriptor.hits_addend
    cost = max(1, request.hits_addend) if sent is None else sent
    cost = min(cost, MAX_COST)
    return -cost if descriptor.is_negative_hits else cost
