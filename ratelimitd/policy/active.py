"""The policy as it is at a time: without the limits that do not exist then.

Rules:
- A rule whose limits are all away and that has none below it does not exist: what else fits an
  entry, such as a rule for any value, applies. With rules below it, it only leads to them.
- So is a rule that only led to what is away now: left alone it would be a whitelist.
- What has no times is shared, not copied.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from ratelimitd.policy.calendar import periods
from ratelimitd.policy.model import Domain, Limit, Node, Policy, Wildcard


class Active(NamedTuple):
    """A policy, and until when it is so: the next change, or border of a calendar period.

    `until_us` is None where nothing will change.
    """

    policy: Policy
    until_us: int | None


def active_policy(policy: Policy, now_us: int) -> Active:
    """Return the policy as it is at `now_us`, microseconds since the Unix epoch."""
    changes: list[int] = []
    domains: dict[str, Domain] = {}
    is_changed = False
    for name, domain in policy.domains.items():
        domains[name] = domain
        changes += [periods(calendar, now_us)[2] for calendar in domain.calendars]
        if domain.root.has_times:
            changes += [at for at in _changes(domain.root) if at > now_us]
            root = _active_node(domain.root, now_us)
            # The root is no rule: a domain of which nothing exists is a domain without rules.
            root = root or replace(domain.root, exact={}, wildcards=())
            domains[name] = replace(domain, root=root)
            is_changed = True
    until_us = min(changes, default=None)
    return Active(replace(policy, domains=domains) if is_changed else policy, until_us)


def exists_at(limit: Limit, now_us: int) -> bool:
    """Tell whether a limit exists at a time."""
    return (limit.from_us is None or limit.from_us <= now_us) and (
        limit.until_us is None or now_us < limit.until_us
    )


def _changes(node: Node) -> Iterator[int]:
    """Yield when limits below `node` come and go."""
    for limit in node.limits:
        if limit.from_us is not None:
            yield limit.from_us
        if limit.until_us is not None:
            yield limit.until_us
    for child in node.exact.values():
        if child.has_times:
            yield from _changes(child)


def _active_node(node: Node, now_us: int) -> Node | None:
    """Return a node with the limits of this time; None if nothing of it exists."""
    if not node.has_times:
        return node
    exact: dict[str, Node] = {}
    for name, child in node.exact.items():
        found = _active_node(child, now_us)
        if found is not None:
            exact[name] = found
    limits = tuple(limit for limit in node.limits if exists_at(limit, now_us))
    if not limits and not exact:
        return None
    wildcards = tuple(
        Wildcard(wildcard.pieces, exact[wildcard.node.name])
        for wildcard in node.wildcards
        if wildcard.node.name in exact
    )
    return replace(node, limits=limits, exact=exact, wildcards=wildcards)
