"""A `rate_limit` map becomes a Limit.

Rules:
- A rule with the reference server's keys only behaves as there: denied hits count, and an
  override in a request replaces the whole rule.
- Once a rule uses a key of ours, itself or through `defaults`, denied hits do not count and an
  override keeps the rule, unless it says otherwise.
"""

from dataclasses import dataclass
from enum import StrEnum

from ratelimitd.json_value import JsonObject
from ratelimitd.policy.fields import (
    read_choice,
    read_flag,
    read_list,
    read_number,
    read_text,
    value_of,
)
from ratelimitd.policy.model import (
    WINDOW_US,
    Algorithm,
    FailurePolicy,
    Limit,
    Position,
    Unit,
)
from ratelimitd.policy.nodes import MapNode, Scalar
from ratelimitd.policy.report import Report, one_of, quote

UNITS = {unit.name: unit for unit in (Unit.SECOND, Unit.MINUTE, Unit.HOUR, Unit.DAY)} | {
    unit.name: unit for unit in (Unit.WEEK, Unit.MONTH, Unit.YEAR)
}
"""By upper-case name, shortest window first."""

OWN_KEYS = ("algorithm", "count_denied", "on_store_failure", "override")
"""Keys of ours about deciding; one of them changes the defaults of the rest."""


class OverrideMode(StrEnum):
    """What an override in a request replaces: number and unit only, or the whole rule."""

    KEEP = "keep"
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What `defaults:` says for the rules of one file that do not say it themselves."""

    uses_own_keys: bool = False
    algorithm: Algorithm = Algorithm.FIXED_WINDOW
    on_store_failure: FailurePolicy = FailurePolicy.ERROR
    counts_denied: bool | None = None
    override: OverrideMode | None = None
    refusal_body: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleContext:
    """What a limit takes from its descriptor and from above."""

    domain: str
    rule: str
    file: str
    defaults: Defaults
    counts_denied: bool
    is_shadow: bool
    is_quota: bool
    is_sensitive: bool
    has_detailed_metric: bool
    metadata: JsonObject | None


def read_defaults(node: MapNode | None, path: str, report: Report) -> Defaults:
    """Return the defaults of one file."""
    if node is None:
        return Defaults()
    return _read_own(node, path, report, Defaults())


def read_limit(
    node: MapNode, key: Scalar, path: str, report: Report, context: RuleContext
) -> Limit:
    """Return the limit under `key`; what is wrong with it is reported."""
    own = _read_own(node, path, report, context.defaults)
    is_unlimited = read_flag(node, "unlimited", path, report)
    unit = _read_unit(node, key, path, report, is_unlimited=is_unlimited)
    name = read_text(node, "name", path, report)
    number = read_number(node, "requests_per_unit", path, report)
    if number is None and not is_unlimited:
        report.warn(
            key, path, "`requests_per_unit` is missing, so it is 0 and every request is refused"
        )
    if own.override is None:
        has_upstream_override = not own.uses_own_keys
    else:
        has_upstream_override = own.override is OverrideMode.UPSTREAM
    return Limit(
        domain=context.domain,
        rule=context.rule,
        position=Position(context.file, key.line, key.column),
        name=name,
        algorithm=own.algorithm,
        unit=unit,
        window_us=WINDOW_US.get(unit, 0),
        requests_per_unit=number or 0,
        is_unlimited=is_unlimited,
        replaces=_read_replaces(node, name, path, report),
        is_shadow=context.is_shadow,
        is_quota=context.is_quota,
        counts_denied=charges_denied(own) and context.counts_denied,
        is_sensitive=context.is_sensitive,
        on_store_failure=own.on_store_failure,
        refusal_body=own.refusal_body,
        has_upstream_override=has_upstream_override,
        has_detailed_metric=context.has_detailed_metric,
        metadata=context.metadata,
    )


def charges_denied(own: Defaults) -> bool:
    """Return whether denied hits count: as said, else where no key of ours is used."""
    return not own.uses_own_keys if own.counts_denied is None else own.counts_denied


def _read_own(node: MapNode, path: str, report: Report, defaults: Defaults) -> Defaults:
    """Return what a map says with our keys, `defaults` where it is silent."""
    counts_denied = defaults.counts_denied
    if value_of(node, "count_denied") is not None:
        counts_denied = read_flag(
            node, "count_denied", path, report, default=counts_denied is not False
        )
    override = defaults.override
    if value_of(node, "override") is not None:
        override = read_choice(
            node, "override", path, report, default=override or OverrideMode.KEEP
        )
    refusal_body = defaults.refusal_body
    if node.get("refusal_body") is not None:
        refusal_body = read_text(node, "refusal_body", path, report)
    return Defaults(
        uses_own_keys=defaults.uses_own_keys or any(value_of(node, name) for name in OWN_KEYS),
        algorithm=read_choice(node, "algorithm", path, report, default=defaults.algorithm),
        on_store_failure=read_choice(
            node, "on_store_failure", path, report, default=defaults.on_store_failure
        ),
        counts_denied=counts_denied,
        override=override,
        refusal_body=refusal_body,
    )


def _read_unit(
    node: MapNode, key: Scalar, path: str, report: Report, *, is_unlimited: bool
) -> Unit:
    text = read_text(node, "unit", path, report)
    at = node.get("unit") or key
    unit = UNITS.get(text.upper())
    accepted = one_of([f"`{name.lower()}`" for name in UNITS])
    below = f"{path}.unit"
    if is_unlimited:
        if unit:
            report.error(at, below, "cannot be given with `unlimited: true`; remove one of them")
        elif text:
            report.warn(at, below, f"{quote(text)} has no effect with `unlimited: true`")
        return Unit.UNKNOWN
    if unit is None:
        wrong = f"{quote(text)} is not a unit" if text else "is missing"
        report.error(at, below, f"{wrong}; accepted: {accepted}")
        return Unit.UNKNOWN
    return unit


def _read_replaces(node: MapNode, name: str, path: str, report: Report) -> frozenset[str]:
    names = set()
    for index, item in enumerate(read_list(node, "replaces", path, report)):
        if not isinstance(item, MapNode):
            continue  # reported by the key check
        below = f"{path}.replaces[{index}]"
        replaced = read_text(item, "name", below, report)
        if not replaced:
            report.error(item, f"{below}.name", "is empty; name the limit that is replaced")
        elif replaced == name:
            report.error(item, f"{below}.name", f"{quote(name)} is the name of this limit itself")
        names.add(replaced)
    return frozenset(names)
