"""Shows a compiled policy: as the reference server does, as JSON, and as tables.

Rules:
- Domains are in the order of their files, rules in the order of the file.
- Secret values are shown as hashes, as in every rule's name.
"""

import json
from collections.abc import Iterator, Sequence

from ratelimitd.json_value import JsonObject, JsonValue
from ratelimitd.policy.callers import Callers, Names
from ratelimitd.policy.model import Domain, FailurePolicy, Limit, Node, Policy


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
    return f"{limit.requests_per_unit} per {limit.unit.name.lower()}"


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
    }
    words = [word for word, is_set in found.items() if is_set]
    return words + [f"replaces {name}" for name in sorted(limit.replaces)]


def _listed(names: Names) -> str:
    return "all" if names is None else ", ".join(sorted(names))


def _aligned(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heading, *rows)
    ]


def _limits_below(node: Node) -> Iterator[Limit]:
    if node.limit is not None:
        yield node.limit
    for child in node.exact.values():
        yield from _limits_below(child)


def _domain_document(domain: Domain) -> JsonObject:
    document: dict[str, JsonValue] = {
        "domain": domain.name,
        "position": str(domain.position),
        "on_no_match": domain.on_no_match.value,
        "secret_keys": sorted(domain.secret_keys),
        "descriptors": [_node_document(node) for node in domain.root.exact.values()],
    }
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
    if node.limit is not None:
        document["limit"] = _limit_document(node.limit)
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
            "window_s": limit.window_us // 1_000_000,
            "requests_per_unit": limit.requests_per_unit,
        }
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
