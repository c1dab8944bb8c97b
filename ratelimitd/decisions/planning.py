"""A request becomes a plan: its descriptors are matched, replaced, priced and given their counters.

Rules:
- Pure: the same policy, request, options and secret give the same plan.
- A limit replaced by another of the same request is not checked and not counted.
- A secret value enters a plan as its fingerprint only: in keys, and in what people may see.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ratelimitd.decisions.keys import KeyPart, PartKind, counter_key, fingerprint
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Check, DescriptorPlan, Outcome, Plan
from ratelimitd.decisions.recipe import to_key_part
from ratelimitd.decisions.request import Descriptor, Override, Request
from ratelimitd.policy.match import Match, match
from ratelimitd.policy.model import (
    DEFAULT_SECRET_KEYS,
    WINDOW_US,
    Domain,
    Limit,
    NoMatch,
    Policy,
)

# Costs saturate where the store's integers end.
MAX_COST = 2**53 - 1

# The rule, for logs, of a limit that a request brings where none is configured.
OWN_LIMIT = "(request)"

# Digits of a fingerprint that people are shown.
SHOWN_DIGITS = 8


class _Found(NamedTuple):
    """What matching found for one descriptor, before replacement."""

    limit: Limit | None
    metric_key: str
    parts: tuple[KeyPart, ...]
    entries: tuple[tuple[str, str], ...]
    is_whitelisted: bool


def make_plan(
    policy: Policy, request: Request, options: DecisionOptions, hash_secret: bytes
) -> Plan:
    """Plan `request` under `policy`; `hash_secret` turns secret values into fingerprints."""
    domain = policy.domains.get(request.domain)
    if domain is None:
        return Plan(
            request=request,
            policy_revision=policy.revision,
            descriptors=tuple(
                DescriptorPlan(
                    Outcome.NO_MATCH,
                    _shown(descriptor.entries, DEFAULT_SECRET_KEYS, hash_secret),
                    cost=_cost(descriptor, request),
                )
                for descriptor in request.descriptors
            ),
            checks=(),
            unmatched=len(request.descriptors),
            is_domain_known=False,
        )
    found = [_find(domain, descriptor, options, hash_secret) for descriptor in request.descriptors]
    replaced: frozenset[str] = frozenset()
    for one in found:
        if one.limit is not None and one.limit.replaces:
            replaced |= one.limit.replaces
    return _build(domain, policy.revision, request, found, replaced, options)


def _build(  # noqa: PLR0917 - called once, above
    domain: Domain,
    policy_revision: str,
    request: Request,
    found: Sequence[_Found],
    replaced: frozenset[str],
    options: DecisionOptions,
) -> Plan:
    descriptors: list[DescriptorPlan] = []
    checks: list[Check] = []
    passing_quota = unmatched = 0
    is_denied = False
    for descriptor, one in zip(request.descriptors, found, strict=True):
        outcome = _outcome(domain, one, replaced)
        cost = _cost(descriptor, request)
        index = None
        if outcome is Outcome.CHECKED:
            assert one.limit is not None
            index = len(checks)
            key = counter_key(
                prefix=options.key_prefix,
                domain=domain.name,
                algorithm=one.limit.algorithm,
                window_us=one.limit.window_us,
                parts=one.parts,
            )
            checks.append(Check(key, one.limit, cost))
        elif outcome is not Outcome.UNLIMITED:
            passing_quota += options.is_quota_mode
        unmatched += one.limit is None
        is_denied = is_denied or outcome is Outcome.NO_MATCH_DENIED
        descriptors.append(
            DescriptorPlan(outcome, one.entries, one.limit, one.metric_key, cost, index)
        )
    return Plan(
        request=request,
        policy_revision=policy_revision,
        descriptors=tuple(descriptors),
        checks=tuple(checks),
        passing_quota=passing_quota,
        unmatched=unmatched,
        is_denied=is_denied,
    )


def _outcome(domain: Domain, one: _Found, replaced: frozenset[str]) -> Outcome:
    if one.limit is None:
        is_denied = domain.on_no_match is NoMatch.DENY and not one.is_whitelisted
        return Outcome.NO_MATCH_DENIED if is_denied else Outcome.NO_MATCH
    if one.limit.name and one.limit.name in replaced:
        return Outcome.REPLACED
    return Outcome.UNLIMITED if one.limit.is_unlimited else Outcome.CHECKED


def _find(
    domain: Domain, descriptor: Descriptor, options: DecisionOptions, hash_secret: bytes
) -> _Found:
    matched = match(domain, descriptor.entries)
    if descriptor.override is not None and (
        matched.limit is None or matched.limit.has_upstream_override
    ):
        return _own_limit(domain, descriptor, matched, options, hash_secret)
    limit = matched.limit
    if limit is not None and descriptor.override is not None:
        limit = _overridden(limit, descriptor.override)
    if limit is not None and options.is_quota_mode and not limit.is_quota:
        limit = replace(limit, is_quota=True)
    return _Found(
        limit=limit,
        metric_key=matched.metric_key,
        parts=tuple([to_key_part(part, hash_secret) for part in matched.parts]) if limit else (),
        entries=_shown_match(domain, descriptor.entries, matched, hash_secret),
        is_whitelisted=matched.is_whitelisted,
    )


def _overridden(limit: Limit, override: Override) -> Limit:
    """Replace number and unit, and keep the rule."""
    return replace(
        limit,
        requests_per_unit=override.requests_per_unit,
        unit=override.unit,
        window_us=WINDOW_US[override.unit],
        is_unlimited=False,
    )


def _own_limit(
    domain: Domain,
    descriptor: Descriptor,
    matched: Match,
    options: DecisionOptions,
    hash_secret: bytes,
) -> _Found:
    """Make the limit that the request brings itself: as upstream, no rule has a part in it.

    Its counter is the one that a rule with the same entries and window would use; what a rule on
    the way calls sensitive stays secret.
    """
    override = descriptor.override
    assert override is not None
    secret_parts = [part.is_secret for part in matched.parts]
    parts = tuple(
        KeyPart(key, PartKind.SECRET, fingerprint(hash_secret, value))
        if key in domain.secret_keys or (at < len(secret_parts) and secret_parts[at])
        else KeyPart(key, PartKind.VALUE, value)
        for at, (key, value) in enumerate(descriptor.entries)
    )
    entries = _shown_match(domain, descriptor.entries, matched, hash_secret)
    metric_key = ".".join(f"{key}_{value}" if value else key for key, value in entries)
    limit = Limit(
        domain=domain.name,
        rule=matched.limit.rule if matched.limit else f"{domain.name}.{OWN_LIMIT}",
        position=domain.position,
        unit=override.unit,
        window_us=WINDOW_US[override.unit],
        requests_per_unit=override.requests_per_unit,
        is_quota=options.is_quota_mode,
        counts_denied=domain.counts_denied,
        on_store_failure=domain.on_store_failure,
    )
    return _Found(limit, metric_key, parts, entries, is_whitelisted=False)


def _shown(
    entries: tuple[tuple[str, str], ...], secret_keys: frozenset[str], hash_secret: bytes
) -> tuple[tuple[str, str], ...]:
    """Return the entries with the values of secret keys as short fingerprints."""
    for key, _ in entries:
        if key in secret_keys:
            break
    else:
        return entries
    return tuple(
        (key, short_fingerprint(hash_secret, value)) if key in secret_keys else (key, value)
        for key, value in entries
    )


def _shown_match(
    domain: Domain, entries: tuple[tuple[str, str], ...], matched: Match, hash_secret: bytes
) -> tuple[tuple[str, str], ...]:
    """Return the entries with secret values hidden, those of `sensitive` rules included."""
    for part in matched.parts:
        if part.is_secret:
            break
    else:
        return _shown(entries, domain.secret_keys, hash_secret)
    known = tuple(
        (part.key, short_fingerprint(hash_secret, part.value))
        if part.is_secret
        else (part.key, part.value)
        for part in matched.parts
    )
    return known + _shown(entries[len(known) :], domain.secret_keys, hash_secret)


def short_fingerprint(hash_secret: bytes, value: str) -> str:
    """Return what people see of a secret value."""
    return fingerprint(hash_secret, value)[:SHOWN_DIGITS]


def _cost(descriptor: Descriptor, request: Request) -> int:
    """Return what a descriptor costs: its own addend, else the request's, where 0 means 1."""
    sent = descriptor.hits_addend
    cost = max(1, request.hits_addend) if sent is None else sent
    cost = min(cost, MAX_COST)
    return -cost if descriptor.is_negative_hits else cost
