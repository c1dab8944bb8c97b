"""Which keys exist and where each belongs; checked over a whole file before its meaning.

Rules:
- The reference server knows one flat set of keys and ignores one in a wrong place, so a wrong
  place for *its* keys is a warning here: the file's decisions must not change.
- A key of ours in a wrong place, and any unknown key, is an error.
- The body of `metadata` is free; everywhere else a leaf is text, an integer or a truth value.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from ratelimitd.policy.callers import CALLERS_FILE
from ratelimitd.policy.nodes import ListNode, MapNode, Scalar, YamlNode
from ratelimitd.policy.report import Report, join_path, one_of, quote
from ratelimitd.policy.scalars import resolve


@dataclass(frozen=True, slots=True)
class Place:
    """A kind of map: the keys it takes, and which of them hold maps, or lists of maps.

    `own` are the keys that only ratelimitd knows. A list of texts is in `text_lists`. Where
    `is_open` the keys are names that the file gives.
    """

    title: str
    upstream: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()
    children: Mapping[str, "Place"] = field(default_factory=dict)
    text_lists: frozenset[str] = frozenset()
    ignores_upstream: bool = True
    is_open: bool = False


_REPLACES = Place("`replaces`", upstream=frozenset({"name"}))
_DEFAULTS = Place(
    "`defaults`",
    own=frozenset(
        {
            "algorithm",
            "count_denied",
            "max_new_keys_per_second",
            "on_store_failure",
            "override",
            "refusal_body",
            "retry_jitter",
        }
    ),
    ignores_upstream=False,
)
_TIERS = Place("a map of tiers", is_open=True)
_RATE_LIMIT = Place(
    "`rate_limit`",
    upstream=frozenset({"name", "replaces", "requests_per_unit", "unit", "unlimited"}),
    own=_DEFAULTS.own
    | {
        "anchor_day",
        "burst",
        "calendar",
        "from",
        "max_debt",
        "scope",
        "slot",
        "slot_ttl",
        "timezone",
        "until",
        "window",
    },
    children={"replaces": _REPLACES, "requests_per_unit": _TIERS},
)
_LIMITS = Place(
    "`limits`",
    upstream=frozenset({"name", "replaces", "requests_per_unit", "unit"}),
    own=_RATE_LIMIT.own,
    children=_RATE_LIMIT.children,
    ignores_upstream=False,
)
_SUBJECTS = Place(
    "`subjects`", own=frozenset({"key", "tier", "trust_tier_entry"}), ignores_upstream=False
)
_DESCRIPTOR_CHILDREN: dict[str, Place] = {"rate_limit": _RATE_LIMIT, "limits": _LIMITS}
_DESCRIPTOR = Place(
    "a descriptor",
    upstream=frozenset(
        {
            "descriptors",
            "detailed_metric",
            "key",
            "metadata",
            "quota_mode",
            "rate_limit",
            "shadow_mode",
            "share_threshold",
            "value",
            "value_to_metric",
        }
    ),
    own=frozenset({"limits", "sensitive"}),
    children=_DESCRIPTOR_CHILDREN,
)
_DESCRIPTOR_CHILDREN["descriptors"] = _DESCRIPTOR
_ROOT = Place(
    "the top of the file",
    upstream=frozenset({"descriptors", "domain"}),
    own=frozenset(
        {"defaults", "headers", "on_no_match", "partition_by", "secret_keys", "subjects"}
    ),
    children={"descriptors": _DESCRIPTOR, "defaults": _DEFAULTS, "subjects": _SUBJECTS},
    text_lists=frozenset({"secret_keys"}),
)
_PLACES = (_ROOT, _DESCRIPTOR, _RATE_LIMIT, _LIMITS, _DEFAULTS, _REPLACES, _SUBJECTS)
UPSTREAM_KEYS = frozenset[str]().union(*(place.upstream for place in _PLACES))
OWN_KEYS = frozenset[str]().union(*(place.own for place in _PLACES)) - UPSTREAM_KEYS

LARGEST_EXACT = 2**53
"""Below it a float that is a whole number is exactly that one."""

SUGGESTION_CUTOFF = 0.6
"""How alike a name must be to be suggested, from 0 to 1."""


def check_keys(root: MapNode, report: Report) -> None:
    """Report every unknown or misplaced key of a file, and every leaf that no field takes."""
    _check_map(root, _ROOT, "", report)


def _check_map(node: MapNode, place: Place | None, path: str, report: Report) -> None:
    """Check the map at `path`; `place` is None inside something that is ignored anyway."""
    for key, value in node.entries:
        below = join_path(path, key.text)
        if key.is_plain and not isinstance(resolve(key.text), str):
            report.error(key, path, f"the key {quote(key.text)} is not text; quote or rename it")
            continue
        if place is not None and place.is_open:
            _check_value(value, None, below, report)
            continue
        if not _is_known(key, place, below, report) or key.text == "metadata":
            continue
        is_here = place is not None and key.text in place.upstream | place.own
        if is_here and place is not None and key.text in place.text_lists:
            continue
        child = place.children.get(key.text) if is_here and place is not None else None
        _check_value(value, child, below, report)


def _check_value(value: YamlNode, place: Place | None, path: str, report: Report) -> None:
    if isinstance(value, MapNode):
        _check_map(value, place, path, report)
    elif isinstance(value, ListNode):
        for index, item in enumerate(value.items):
            below = f"{path}[{index}]"
            if isinstance(item, MapNode):
                _check_map(item, place, below, report)
            else:
                report.error(item, below, "must be a map; every list here is a list of maps")
    elif value.is_plain and isinstance(resolve(value.text), float):
        report.error(value, path, _about_float(value))


def _about_float(value: Scalar) -> str:
    """Return what to write instead of a float: the digits of a thousand that reads `1e3`."""
    number = resolve(value.text)
    is_whole = isinstance(number, float) and number.is_integer() and abs(number) < LARGEST_EXACT
    if is_whole and "e" in value.text.lower():
        return f"{quote(value.text)} is a fraction in YAML; write {number:.0f}, or text in quotes"
    return "no key takes a fraction or more than 64 bits; if it is text, write it in quotes"


def _is_known(key: Scalar, place: Place | None, path: str, report: Report) -> bool:
    """Tell whether the key may stand here; report it if it may not, or has no effect."""
    name = key.text
    if place is not None and name in place.upstream | place.own:
        return True
    if name in UPSTREAM_KEYS and (place is None or place.ignores_upstream):
        if place is not None:
            homes = one_of([p.title for p in _PLACES if name in p.upstream])
            report.warn(key, path, f"has no effect in {place.title}; it belongs in {homes}")
        return True
    if name in OWN_KEYS | UPSTREAM_KEYS:
        where = f"in {place.title}" if place is not None else "here"
        homes = one_of([p.title for p in _PLACES if name in p.own | p.upstream])
        report.error(key, path, f"cannot stand {where}; it belongs in {homes}")
        return False
    if name == "callers" and place is _ROOT:
        message = f"who may call stands in {CALLERS_FILE} alone, at the top of the directory"
        report.error(key, path, message)
        return False
    known = sorted(place.upstream | place.own) if place is not None else sorted(UPSTREAM_KEYS)
    hint = _suggest(name, known) if report.may_suggest() else ""
    report.error(key, path, f"unknown key{hint}")
    return False


def _suggest(name: str, known: list[str]) -> str:
    """Return what to write instead: the nearest key that may stand here, else the whole list."""
    near = get_close_matches(name[:100], known, 1, SUGGESTION_CUTOFF) or get_close_matches(
        name[:100], sorted(UPSTREAM_KEYS | OWN_KEYS), 1, SUGGESTION_CUTOFF
    )
    if near:
        return f"; did you mean `{near[0]}`?"
    return f"; known here: {', '.join(known)}"
