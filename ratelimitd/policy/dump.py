"""Shows a compiled policy: as the reference server does, as JSON, and as tables.

Rules:
- Domains are in the order of their files, rules in the order of the file.
- Secret values are shown as hashes, as in every rule's name.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from ratelimitd.json_value import JsonObject, JsonValue
from ratelimitd.policy.callers import Callers, Names
from ratelimitd.policy.model import (
    Algorithm,
    Domain,
    FailurePolicy,
    Limit,
    Node,
    Policy,
    Scope,
    Unit,
)

US_PER_S = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SPANS = (("days", 86_400), ("hours", 3_600), ("minutes", 60))


def to_rlconfig(policy: Policy) -> str:
    """Return one line per limit, in the format of the reference server's /rlconfig."""
    return "".join(
        f"{limit.rule}: unit={limit.unit.name} requests_per_unit={limit.requests_per_unit}, "
        f"shadow_mode: {str(limit.is_shadow).lower()}, quota_mode: {str(limit.is_quota).lower()}\n"
        for limit in limits(policy)
    )


def to_document(policy: Policy) -> JsonObject:
    """Return the whole policy as a JSON object, for people and scripts."""
    return {
        "revision": policy.revision,
        "domains": [_domain_document(domain) for domain in policy.domains.values()],
    }


def to_json(policy: Policy) -> str:
    """Return the text of `to_document` from `"domains"` on: what precedes it may tell more."""
    domains = to_document(policy)["domains"]
    text = json.dumps({"domains": domains}, indent=2, ensure_ascii=False) + "\n"
    return text.removeprefix("{\n  ")


def to_json_head(revision: str | None, load_errors: Sequence[str]) -> str:
    """Return what precedes `to_json`."""
    head: dict[str, JsonValue] = {"revision": revision}
    if load_errors:
        head["load_errors"] = list(load_errors)
    text = json.dumps(head, indent=2, ensure_ascii=False)
    return text.removesuffix("\n}") + ",\n  "


def to_table(policy: Policy) -> list[str]:
    """Return aligned lines, a heading first: rule, limit, modes, position."""
    heading = ("RULE", "LIMIT", "MODES", "POSITION")
    rows = [
        (limit.rule, describe_amount(limit), ", ".join(modes(limit)) or "-", str(limit.position))
        for limit in limits(policy)
    ]
    return _aligned(heading, rows)


def to_callers_table(callers: Callers) -> list[str]:
    """Return aligned lines, a heading first: caller, domains, methods, position."""
    rows = []
    for (_, text), number in callers.sans.items():
        entry = callers.entries[number]
        rows.append((text, _listed(entry.domains), _listed(entry.methods), str(entry.position)))
    return _aligned(("CALLER", "DOMAINS", "METHODS", "POSITION"), rows)


def limits(policy: Policy) -> Iterator[Limit]:
    """Yield every limit of every domain."""
    for domain in policy.domains.values():
        yield from _limits_below(domain.root)


def describe_amount(limit: Limit) -> str:
    """Return how much a limit admits, as `10 per minute`."""
    if limit.is_unlimited:
        return "unlimited"
    amount = _describe_number(limit)
    if limit.algorithm is Algorithm.CONCURRENCY:
        return f"{amount} at once"
    text = f"{amount} per {_describe_window(limit)}"
    if limit.burst is not None:
        text += f", burst {limit.burst}"
    if limit.max_debt is not None and limit.counts_denied:
        text += f", debt {limit.max_debt}"
    if limit.algorithm is Algorithm.FIXED_WINDOW:
        return text
    return f"{text} ({limit.algorithm.replace('_', ' ')})"


def _describe_number(limit: Limit) -> str:
    if not limit.tiers:
        return str(limit.requests_per_unit)
    tiers = [f"{tier} {number}" for tier, number in limit.tiers.items() if tier != "default"]
    return ", ".join([*tiers, f"else {limit.requests_per_unit}"])


def _describe_window(limit: Limit) -> str:
    if limit.calendar is not None:
        day = limit.calendar.anchor_day
        anchor = f" from day {day}" if day != 1 else ""
        return f"calendar {limit.calendar.unit.name.lower()}{anchor} in {limit.calendar.timezone}"
    if limit.unit is not Unit.UNKNOWN:
        return limit.unit.name.lower()
    seconds = limit.window_us // US_PER_S
    for noun, length in _SPANS:
        if seconds % length == 0:
            return f"{seconds // length} {noun}"
    return f"{seconds} seconds"


def modes(limit: Limit) -> list[str]:
    """Return what is special about a limit, in words."""
    found = {
        "shadow": limit.is_shadow,
        "quota": limit.is_quota,
        "detailed metric": limit.has_detailed_metric,
        "sensitive": limit.is_sensitive,
        "denied hits not counted": not limit.counts_denied,
        "override keeps the rule": not limit.has_upstream_override,
        "denied hits counted": limit.counts_denied and not limit.has_upstream_override,
        f"on store failure: {limit.on_store_failure}": limit.on_store_failure
        is not FailurePolicy.ERROR,
        f"counts by {limit.scope}" if limit.scope is Scope.TIER else "counts everybody": limit.scope
        is not Scope.SUBJECT,
        f"slots by {limit.slot}": bool(limit.slot),
        f"at most {limit.max_new_keys_per_second} new keys per second": bool(
            limit.max_new_keys_per_second
        ),
        f"from {_instant(limit.from_us)}": limit.from_us is not None,
        f"until {_instant(limit.until_us)}": limit.until_us is not None,
    }
    words = [word for word, is_set in found.items() if is_set]
    return words + [f"replaces {name}" for name in sorted(limit.replaces)]


def _instant(time_us: int | None) -> str:
    if time_us is None:
        return ""
    moment = _EPOCH + timedelta(microseconds=time_us)
    return moment.isoformat().replace("+00:00", "Z")


def _listed(names: Names) -> str:
    return "all" if names is None else ", ".join(sorted(names))


def _aligned(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heading, *rows)
    ]


def _limits_below(node: Node) -> Iterator[Limit]:
    yield from node.limits
    for child in node.exact.values():
        yield from _limits_below(child)


def _domain_document(domain: Domain) -> JsonObject:
    document: dict[str, JsonValue] = {
        "domain": domain.name,
        "position": str(domain.position),
        "on_no_match": domain.on_no_match.value,
        "secret_keys": sorted(domain.secret_keys),
    }
    if domain.subjects is not None:
        subjects = domain.subjects
        document["subjects"] = {
            "key": subjects.key,
            "tier": subjects.tier,
            "trust_tier_entry": subjects.trusts_tier_entry,
        }
    if domain.partition_by:
        document["partition_by"] = domain.partition_by
    if domain.headers is not None:
        document["headers"] = domain.headers.value
    document["descriptors"] = [_node_document(node) for node in domain.root.exact.values()]
    return document


def _node_document(node: Node) -> JsonObject:
    document: dict[str, JsonValue] = {"name": node.label, "rule": node.rule}
    document["matches"] = "wildcard" if "*" in node.name else "exact" if node.has_value else "key"
    document["position"] = str(node.position)
    flags = {
        "share_threshold": node.is_shared,
        "value_to_metric": node.has_value_metric,
        "sensitive": node.is_sensitive,
    }
    document.update({name: True for name, is_set in flags.items() if is_set})
    if len(node.limits) == 1:
        document["limit"] = _limit_document(node.limits[0])
    elif node.limits:
        document["limits"] = [_limit_document(limit) for limit in node.limits]
    if node.exact:
        document["descriptors"] = [_node_document(child) for child in node.exact.values()]
    return document


def _limit_document(limit: Limit) -> JsonObject:
    document: dict[str, JsonValue] = {"position": str(limit.position)}
    if limit.name:
        document["name"] = limit.name
    if limit.replaces:
        document["replaces"] = sorted(limit.replaces)
    if limit.is_unlimited:
        document["unlimited"] = True
    else:
        document |= {
            "algorithm": limit.algorithm.value,
            "unit": limit.unit.name.lower(),
            "window_s": limit.window_us // US_PER_S,
            "requests_per_unit": dict(limit.tiers) if limit.tiers else limit.requests_per_unit,
        }
        document |= _extended(limit)
    document |= {
        "shadow_mode": limit.is_shadow,
        "quota_mode": limit.is_quota,
        "detailed_metric": limit.has_detailed_metric,
        "count_denied": limit.counts_denied,
        "on_store_failure": limit.on_store_failure.value,
        "refusal_body": limit.refusal_body,
        "override": "upstream" if limit.has_upstream_override else "keep",
    }
    if limit.metadata is not None:
        document["metadata"] = limit.metadata
    return document


def _extended(limit: Limit) -> JsonObject:
    """Return what a limit says with keys of ours, where it says it."""
    told: dict[str, JsonValue] = {}
    if limit.calendar is not None:
        calendar = limit.calendar
        told["calendar"] = {"timezone": calendar.timezone, "anchor_day": calendar.anchor_day}
    if limit.algorithm is Algorithm.GCRA:
        told |= {"burst": limit.burst, "max_debt": limit.max_debt}
    if limit.scope is not Scope.SUBJECT:
        told["scope"] = limit.scope.value
    if limit.algorithm is Algorithm.CONCURRENCY:
        told |= {"slot": limit.slot, "slot_ttl_s": limit.slot_ttl_us // US_PER_S}
    if limit.from_us is not None:
        told["from"] = _instant(limit.from_us)
    if limit.until_us is not None:
        told["until"] = _instant(limit.until_us)
    if limit.max_new_keys_per_second:
        told["max_new_keys_per_second"] = limit.max_new_keys_per_second
    if limit.retry_jitter:
        told["retry_jitter"] = limit.retry_jitter
    if limit.has_problem_body:
        told["problem_body"] = True
    return told
