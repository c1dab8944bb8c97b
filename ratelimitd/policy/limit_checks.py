"""Whether the keys of a limit go together, and whether its numbers can be counted exactly.

Rules:
- The store counts in integers below 2^53. gcra multiplies amounts of at most 2^26, and a burst
  with its debt takes at most 2^52 microseconds at the limit's rate.
- What has no meaning beside the rest is an error: it was meant for something.
"""

from dataclasses import replace

from ratelimitd.policy.fields import value_of
from ratelimitd.policy.model import Algorithm, Limit, Scope
from ratelimitd.policy.nodes import MapNode
from ratelimitd.policy.report import Report

LARGEST = {
    Algorithm.FIXED_WINDOW: 2**53 - 1,
    Algorithm.SLIDING_WINDOW: 2**32 - 1,
    Algorithm.GCRA: 2**26,
    Algorithm.CONCURRENCY: 10_000,
}
MAX_GCRA_SPAN_US = 2**52

_NEEDS = {
    "burst": Algorithm.GCRA,
    "max_debt": Algorithm.GCRA,
    "slot": Algorithm.CONCURRENCY,
    "slot_ttl": Algorithm.CONCURRENCY,
    "calendar": Algorithm.FIXED_WINDOW,
}

_ABOUT_COUNTING = (
    *("window", "calendar", "timezone", "anchor_day", "burst", "max_debt"),
    *("scope", "slot", "slot_ttl", "max_new_keys_per_second"),
)


def check_limit(limit: Limit, node: MapNode, path: str, report: Report) -> Limit:
    """Return the limit; what does not go together is reported, and left out."""
    if limit.from_us is not None and limit.until_us is not None and limit.until_us <= limit.from_us:
        report.error(node.get("until"), f"{path}.until", "is not after `from`")
    if limit.is_unlimited:
        _check_unlimited(limit, node, path, report)
        return replace(limit, max_new_keys_per_second=0)
    for name, algorithm in _NEEDS.items():
        if value_of(node, name) is not None and limit.algorithm is not algorithm:
            if name == "calendar" and limit.algorithm is Algorithm.CONCURRENCY:
                continue  # reported with the window
            message = f"needs `algorithm: {algorithm}`, not {limit.algorithm}"
            report.error(node.key(name), f"{path}.{name}", message)
    if limit.scope is not Scope.SUBJECT:
        _check_shared(limit, node, path, report)
        _check_one_rate(limit, node, path, report)
        limit = replace(limit, max_new_keys_per_second=0)  # `defaults` may bound the others
    if limit.algorithm is Algorithm.GCRA:
        return _check_gcra(limit, node, path, report)
    limit = replace(limit, burst=None, max_debt=None)
    if limit.algorithm is Algorithm.CONCURRENCY and not limit.slot:
        report.warn(
            node,
            path,
            "has no `slot`, so a release frees anybody's place: at most "
            "`requests_per_unit` are in flight, and as many more as releases come for refused or "
            "overdue requests; name the entry that holds the request's id, as `slot: request_id`",
        )
    return limit


def _check_unlimited(limit: Limit, node: MapNode, path: str, report: Report) -> None:
    """Report what is about counting, of a limit that counts nothing."""
    names = [name for name in _ABOUT_COUNTING if value_of(node, name) is not None]
    for name in [*names, "requests_per_unit"] if limit.tiers else names:
        message = "cannot be given with `unlimited: true`; remove one of them"
        report.error(node.key(name), f"{path}.{name}", message)


def _check_shared(limit: Limit, node: MapNode, path: str, report: Report) -> None:
    if value_of(node, "max_new_keys_per_second") is not None:
        message = f"has no meaning with `scope: {limit.scope}`, whose counters are few"
        report.error(
            node.key("max_new_keys_per_second"), f"{path}.max_new_keys_per_second", message
        )


def _check_one_rate(limit: Limit, node: MapNode, path: str, report: Report) -> None:
    """Report a bucket that callers with different rates would share."""
    if limit.algorithm is Algorithm.GCRA and limit.scope is Scope.GLOBAL and limit.tiers:
        message = (
            "has a number for each tier, but one bucket for all of them, which has one rate; "
            "give one number, use `scope: tier`, or another algorithm than gcra"
        )
        report.error(node.get("requests_per_unit"), f"{path}.requests_per_unit", message)


def _check_gcra(limit: Limit, node: MapNode, path: str, report: Report) -> Limit:
    """Bound what gcra multiplies, for the number of every tier."""
    amounts = {amount for amount in (limit.requests_per_unit, *limit.tiers.values()) if amount}
    most_debt: int | None = None
    for amount in sorted(amounts) if limit.window_us else ():
        burst = amount if limit.burst is None else limit.burst
        longest = MAX_GCRA_SPAN_US * amount // limit.window_us
        if burst > longest:
            message = (
                f"{burst} at once are more than can be counted exactly at {amount} per window; "
                f"at most {longest} are accepted"
            )
            report.error(node.get("burst"), f"{path}.burst", message)
        elif limit.max_debt is not None and burst + limit.max_debt > longest:
            message = (
                f"{limit.max_debt} and a burst of {burst} are more than can be counted exactly at "
                f"{amount} per window; at most {longest - burst} are accepted"
            )
            report.error(node.get("max_debt"), f"{path}.max_debt", message)
        elif limit.max_debt is None and 2 * burst > longest:
            most_debt = min(longest - burst, longest if most_debt is None else most_debt)
    return limit if most_debt is None else replace(limit, max_debt=most_debt)
