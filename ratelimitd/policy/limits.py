"""A `rate_limit` map, or each of a list of `limits`, becomes a Limit.

Rules:
- What each key takes is read here; whether they go together is checked in `limit_checks`.
- What is wrong is reported and read as if it were not there, so that reading goes on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from ratelimitd.json_value import JsonObject
from ratelimitd.policy.fields import (
    is_null,
    read_choice,
    read_flag,
    read_integer,
    read_list,
    read_number,
    read_text,
    value_of,
)
from ratelimitd.policy.limit_checks import LARGEST, check_limit
from ratelimitd.policy.model import (
    WINDOW_US,
    Algorithm,
    Calendar,
    Limit,
    Position,
    Scope,
    Unit,
)
from ratelimitd.policy.nodes import MapNode, Scalar
from ratelimitd.policy.own_keys import Defaults, read_own_keys
from ratelimitd.policy.report import Report, one_of, quote
from ratelimitd.policy.spans import read_instant, read_span

UNITS = {unit.name: unit for unit in (Unit.SECOND, Unit.MINUTE, Unit.HOUR, Unit.DAY)} | {
    unit.name: unit for unit in (Unit.WEEK, Unit.MONTH, Unit.YEAR)
}
"""By upper-case name, shortest window first."""

# In the zone database of many machines, and no zones of IANA: each machine's own, or with leap
# seconds that no clock here counts.
_NO_ZONES = ("localtime", "posixrules", "posix/", "right/")

CALENDAR_UNITS = (Unit.DAY, Unit.WEEK, Unit.MONTH, Unit.YEAR)

MAX_WINDOW_S = 366 * 86_400
MAX_SLOT_TTL_S = 86_400
DEFAULT_SLOT_TTL_US = 60_000_000
MAX_TIERS = 64
MAX_ANCHOR_DAY = 31

_DAY_US = 86_400_000_000
_HOUR_US = 3_600_000_000
# The shortest period of each unit: clocks go forward, and February has 28 days.
_SHORTEST_US = {
    Unit.DAY: _DAY_US - _HOUR_US,
    Unit.WEEK: 7 * _DAY_US - _HOUR_US,
    Unit.MONTH: 28 * _DAY_US - _HOUR_US,
    Unit.YEAR: 365 * _DAY_US - _HOUR_US,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleContext:
    """What a limit takes from its descriptor and from above.

    `is_listed` says that it stands in a list of `limits`.
    """

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
    is_listed: bool = False


def read_limit(
    node: MapNode, key: Scalar | MapNode, path: str, report: Report, context: RuleContext
) -> Limit:
    """Return the limit under `key`; what is wrong with it is reported."""
    tiers = _read_tiers(node, path, report)
    is_extended = context.is_listed or bool(tiers)
    own = read_own_keys(node, path, report, context.defaults, is_extended=is_extended)
    is_unlimited = read_flag(node, "unlimited", path, report)
    unit, window_us, calendar = _read_window(
        node, key, path, report, own.algorithm, is_unlimited=is_unlimited
    )
    number = _read_amount(node, path, report, own, tiers)
    if number is None and not is_unlimited:
        report.warn(
            key, path, "`requests_per_unit` is missing, so it is 0 and every request is refused"
        )
    name = read_text(node, "name", path, report)
    is_slotted = own.algorithm is Algorithm.CONCURRENCY
    slot_ttl_us = read_span(node, "slot_ttl", path, report, longest_s=MAX_SLOT_TTL_S)
    limit = Limit(
        domain=context.domain,
        rule=context.rule,
        position=Position(context.file, key.line, key.column),
        name=name,
        algorithm=own.algorithm,
        unit=unit,
        window_us=window_us,
        calendar=calendar,
        requests_per_unit=number or 0,
        tiers=tiers,
        burst=read_integer(node, "burst", path, report, smallest=1, largest=2**26),
        max_debt=read_integer(node, "max_debt", path, report, largest=2**26),
        scope=read_choice(node, "scope", path, report, default=Scope.SUBJECT),
        slot=read_text(node, "slot", path, report),
        slot_ttl_us=(slot_ttl_us or DEFAULT_SLOT_TTL_US) if is_slotted else 0,
        from_us=read_instant(node, "from", path, report),
        until_us=read_instant(node, "until", path, report),
        max_new_keys_per_second=own.max_new_keys_per_second,
        is_unlimited=is_unlimited,
        replaces=_read_replaces(node, name, path, report),
        is_shadow=context.is_shadow,
        is_quota=context.is_quota,
        counts_denied=own.charges_denied and context.counts_denied,
        is_sensitive=context.is_sensitive,
        on_store_failure=own.on_store_failure,
        refusal_body=own.refusal_body or "",
        has_problem_body=own.refusal_body is None and own.uses_own_keys,
        retry_jitter=own.retry_jitter,
        has_upstream_override=own.has_upstream_override,
        has_detailed_metric=context.has_detailed_metric,
        metadata=context.metadata,
    )
    return check_limit(limit, node, path, report)


def _read_window(
    node: MapNode,
    key: Scalar | MapNode,
    path: str,
    report: Report,
    algorithm: Algorithm,
    *,
    is_unlimited: bool,
) -> tuple[Unit, int, Calendar | None]:
    """Return unit, window and calendar, of which a limit gives what its algorithm takes."""
    if is_unlimited:
        return _read_unit(node, key, path, report, is_unlimited=True), 0, None
    if algorithm is Algorithm.CONCURRENCY:
        for name in ("unit", "window", "calendar", "timezone", "anchor_day"):
            if value_of(node, name) is not None:
                message = "has no meaning for concurrency, which counts what is in flight"
                report.error(node.key(name), f"{path}.{name}", message)
        return Unit.UNKNOWN, 0, None
    if value_of(node, "window") is not None:
        if value_of(node, "unit") is not None:
            message = "stands beside `unit`; give one of them"
            report.error(node.key("window"), f"{path}.window", message)
        window_us = read_span(node, "window", path, report, longest_s=MAX_WINDOW_S)
        window_us = window_us or WINDOW_US[Unit.SECOND]
        named = next((unit for unit, us in WINDOW_US.items() if us == window_us), Unit.UNKNOWN)
        return named, window_us, _read_calendar(node, path, report, Unit.UNKNOWN)
    unit = _read_unit(node, key, path, report, is_unlimited=False)
    calendar = _read_calendar(node, path, report, unit)
    if calendar is not None:
        return unit, _SHORTEST_US[unit], calendar
    return unit, WINDOW_US.get(unit, 0), None


def _read_calendar(node: MapNode, path: str, report: Report, unit: Unit) -> Calendar | None:
    is_calendar = read_flag(node, "calendar", path, report)
    timezone = _read_timezone(node, path, report)
    anchor_day = read_integer(node, "anchor_day", path, report, smallest=1, largest=MAX_ANCHOR_DAY)
    if not is_calendar:
        for name in ("timezone", "anchor_day"):
            if value_of(node, name) is not None:
                message = "has a meaning for calendar periods only; add `calendar: true`"
                report.error(node.key(name), f"{path}.{name}", message)
        return None
    if unit not in CALENDAR_UNITS:
        if unit is not Unit.UNKNOWN or value_of(node, "window") is not None:
            message = "needs `unit: day`, `week`, `month` or `year`"
            report.error(node.key("calendar"), f"{path}.calendar", message)
        return None
    if anchor_day is not None and unit is not Unit.MONTH:
        message = "is the day on which a month begins; it needs `unit: month`"
        report.error(node.key("anchor_day"), f"{path}.anchor_day", message)
    return Calendar(unit, timezone, anchor_day or 1 if unit is Unit.MONTH else 1)


def _read_timezone(node: MapNode, path: str, report: Report) -> str:
    name = read_text(node, "timezone", path, report)
    if not name:
        return "UTC"
    try:
        is_zone = bool(ZoneInfo(name)) and not name.startswith(_NO_ZONES)
    except (KeyError, OSError, ValueError):
        is_zone = False
    if not is_zone:
        message = f"{quote(name)} is no IANA time zone; write for example `Europe/Berlin`"
        report.error(node.get("timezone"), f"{path}.timezone", message)
        return "UTC"
    return name


def _read_amount(
    node: MapNode, path: str, report: Report, own: Defaults, tiers: Mapping[str, int]
) -> int | None:
    """Return the number that holds where no tier is named; None where there is none."""
    value = node.get("requests_per_unit")
    if not isinstance(value, MapNode):
        largest = LARGEST[own.algorithm] if own.uses_own_keys else None
        return read_number(node, "requests_per_unit", path, report, largest=largest)
    below = f"{path}.requests_per_unit"
    for tier, number in tiers.items():
        if number > LARGEST[own.algorithm]:
            message = f"{number} is not from 0 to {LARGEST[own.algorithm]}"
            report.error(value.get(tier), f"{below}.{tier}", message)
    if "default" not in tiers:
        message = "has no `default`; it is for callers without a tier, or of another one"
        report.error(node.key("requests_per_unit"), below, message)
    return tiers.get("default", 0)


def _read_tiers(node: MapNode, path: str, report: Report) -> Mapping[str, int]:
    """Return the numbers of a map of tiers; empty where there is one number."""
    value = node.get("requests_per_unit")
    if not isinstance(value, MapNode):
        return {}
    below = f"{path}.requests_per_unit"
    if len(value.entries) > MAX_TIERS:
        message = f"names {len(value.entries)} tiers; at most {MAX_TIERS} are accepted"
        report.error(node.key("requests_per_unit"), below, message)
        return {"default": 0}
    tiers: dict[str, int] = {}
    for key, number in value.entries:
        if is_null(number):
            report.error(key, f"{below}.{key.text}", "has no number")
        read = read_number(value, key.text, below, report, largest=LARGEST[Algorithm.FIXED_WINDOW])
        tiers[key.text] = read or 0
    return tiers


def _read_unit(
    node: MapNode, key: Scalar | MapNode, path: str, report: Report, *, is_unlimited: bool
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
