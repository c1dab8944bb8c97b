"""What one descriptor leads to: the limits that match, who asks, and what blocks it.

Rules:
- Attributes, the tier and the slots, are taken out first: they match nothing and name no counter.
- A limit that a request brings itself applies where no rule of ours matches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, NamedTuple

from ratelimitd.decisions.amounts import with_override
from ratelimitd.decisions.facts import Facts
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.request import Descriptor, Override
from ratelimitd.decisions.shown import shown_match
from ratelimitd.decisions.subject import Block
from ratelimitd.decisions.subject_entry import LONG_KEY, entry_field
from ratelimitd.decisions.who import NOBODY, Who, subject_field, who_asks
from ratelimitd.policy.match import (
    Match,
    MatchedBy,
    Part,
    match,
    take_attributes,
)
from ratelimitd.policy.model import WINDOW_US, Domain, Limit, Scope

# The rule, for logs, of a limit that a request brings where none is configured.
OWN_LIMIT = "(request)"

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class Scene(NamedTuple):
    """What all descriptors of a request have in common."""

    domain: Domain
    options: DecisionOptions
    hash_secret: bytes
    facts: Facts


class Found(NamedTuple):
    """What matching found for one descriptor, before replacement.

    `sent` are the entries that matching saw, `entries` those sent as people may see them.
    `own` is the one of the limits whose number came with the request, whoever asks.
    """

    limits: tuple[Limit, ...]
    metric_key: str
    parts: tuple[Part, ...]
    sent: tuple[tuple[str, str], ...]
    entries: tuple[tuple[str, str], ...]
    is_whitelisted: bool = False
    who: Who = NOBODY
    attributes: Mapping[str, str] = _NONE
    block: Block | None = None
    own: Limit | None = None


def find(scene: Scene, descriptor: Descriptor) -> Found:
    """Return what a descriptor leads to."""
    domain, secret = scene.domain, scene.hash_secret
    sent, attributes = descriptor.entries, _NONE
    if domain.attributes:
        sent, attributes = take_attributes(domain, sent)
    matched = match(domain, sent)
    block = _block(scene, descriptor.entries) if scene.facts.blocks else None
    override = descriptor.override
    who = NOBODY
    if domain.subjects is not None:
        field = subject_field(domain, sent, secret)
        record = scene.facts.subjects.get(field)
        who = who_asks(domain, field, attributes, record, scene.facts.now_us)
    if override is not None and (matched.limit is None or matched.limit.has_upstream_override):
        return _own_limit(scene, sent, override, matched)._replace(block=block, who=who)
    limits = matched.limits
    # The number of a request is for the first limit that is the subject's own.
    at = next((at for at, limit in enumerate(limits) if limit.scope is Scope.SUBJECT), None)
    if override is not None and at is not None:
        limits = (*limits[:at], with_override(limits[at], override), *limits[at + 1 :])
    if scene.options.is_quota_mode:
        limits = tuple(
            [limit if limit.is_quota else replace(limit, is_quota=True) for limit in limits]
        )
    return Found(
        limits=limits,
        metric_key=matched.metric_key,
        parts=matched.parts,
        sent=sent,
        entries=shown_match(domain, sent, matched, secret),
        is_whitelisted=matched.is_whitelisted,
        who=who,
        attributes=attributes,
        block=block,
        own=limits[at] if override is not None and at is not None else None,
    )


def _block(scene: Scene, entries: Sequence[tuple[str, str]]) -> Block | None:
    """Return what blocks a descriptor: the block of one of its entries."""
    domain, blocks = scene.domain, scene.facts.blocks
    keys = blocks.keys.get(domain.name, ())
    found = blocks.find(
        domain.name,
        [
            entry_field(
                domain.name,
                key,
                value,
                is_secret=key in domain.hidden_keys,
                hash_secret=scene.hash_secret,
            )
            for key, value in entries
            # A long key has no name in the registry, only a digest.
            if key in keys or LONG_KEY in keys
        ],
    )
    if found is None or (found.until_us is not None and found.until_us <= scene.facts.now_us):
        return None
    return found


def _own_limit(
    scene: Scene, sent: tuple[tuple[str, str], ...], override: Override, matched: Match
) -> Found:
    """Make the limit that the request brings itself: as upstream, no rule has a part in it.

    Its counter is the one that a rule with the same entries and window would use; what a rule on
    the way calls sensitive stays secret.
    """
    domain = scene.domain
    secret_parts = [part.is_secret for part in matched.parts]
    parts = tuple(
        Part(
            key,
            value,
            domain.root,
            MatchedBy.DEFAULT,
            value,
            key in domain.hidden_keys or (at < len(secret_parts) and secret_parts[at]),
        )
        for at, (key, value) in enumerate(sent)
    )
    entries = shown_match(domain, sent, matched, scene.hash_secret)
    metric_key = ".".join(f"{key}_{value}" if value else key for key, value in entries)
    limit = Limit(
        domain=domain.name,
        rule=matched.limit.rule if matched.limit else f"{domain.name}.{OWN_LIMIT}",
        position=domain.position,
        unit=override.unit,
        window_us=WINDOW_US[override.unit],
        requests_per_unit=override.requests_per_unit,
        is_quota=scene.options.is_quota_mode,
        counts_denied=domain.counts_denied,
        on_store_failure=domain.on_store_failure,
    )
    return Found((limit,), metric_key, parts, sent, entries, own=limit)
