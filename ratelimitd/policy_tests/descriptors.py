"""The descriptors of a step: entries in order, and perhaps hits and an override of their own.

    descriptors:
      - {api_key: alice, path: /a}                        # entries alone
      - {entries: {api_key: alice}, hits: 3, override: {requests_per_unit: 5, unit: minute}}
      - {entries: [{path: /a}, {path: /b}]}               # the same key twice

Rules:
- Keys and values of entries are text as it is written.
- What one descriptor does not say of hits holds as the step says it.
"""

from typing import NamedTuple

from ratelimitd.decisions.request import Descriptor, Override
from ratelimitd.policy.fields import (
    MAX_TEXT_CHARACTERS,
    read_flag,
    read_integer,
    read_list,
    read_map,
    read_text,
    value_of,
)
from ratelimitd.policy.limits import UNITS
from ratelimitd.policy.nodes import ListNode, MapNode, Scalar, YamlNode
from ratelimitd.policy.report import Report, join_path, one_of, quote
from ratelimitd.policy_tests.keys import check_keys

MAX_HITS = 2**53 - 1

MAX_DESCRIPTORS = 100
"""Of one step; Envoy sends a handful."""

_OWN_KEYS = ("entries", "hits", "override", "refund")
_OVERRIDE_KEYS = ("requests_per_unit", "unit")


class Hits(NamedTuple):
    """What a descriptor costs, or gives back."""

    number: int
    is_refund: bool = False


def read_hits(node: MapNode, path: str, report: Report, default: Hits) -> Hits:
    """Return what a map says of hits."""
    number = read_integer(node, "hits", path, report, largest=MAX_HITS)
    return Hits(
        default.number if number is None else number,
        read_flag(node, "refund", path, report, default=default.is_refund),
    )


def read_descriptors(
    node: MapNode, path: str, report: Report, hits: Hits
) -> tuple[Descriptor, ...]:
    """Return the descriptors of a step; `hits` are the step's."""
    items = read_list(node, "descriptors", path, report)
    below = join_path(path, "descriptors")
    if not items:
        report.error(node, below, "is missing or empty; write `descriptors: [{key: value}]`")
    if len(items) > MAX_DESCRIPTORS:
        message = f"has {len(items):,} items; at most {MAX_DESCRIPTORS} are accepted"
        report.error(node.get("descriptors"), below, message)
        return ()
    return tuple(
        _read_descriptor(item, f"{below}[{index}]", report, hits)
        for index, item in enumerate(items)
    )


def _read_descriptor(item: YamlNode, path: str, report: Report, hits: Hits) -> Descriptor:
    if not isinstance(item, MapNode) or not item.entries:
        report.error(item, path, "must be a map of entries, as `{api_key: k1, path: /}`")
        return Descriptor(())
    entries = item.get("entries")
    if not isinstance(entries, MapNode | ListNode):
        for name in _OWN_KEYS:
            if (key := item.key(name)) is not None:
                message = "stands among entries; write `{entries: {key: value}, hits: 1}`"
                report.error(key, join_path(path, name), message)
        return _descriptor(_read_entries(item, path, report), hits)
    check_keys(item, path, _OWN_KEYS, report)
    found = _read_long_entries(entries, join_path(path, "entries"), report)
    hits = read_hits(item, path, report, hits)
    return _descriptor(found, hits)._replace(override=_read_override(item, path, report))


def _descriptor(entries: tuple[tuple[str, str], ...], hits: Hits) -> Descriptor:
    return Descriptor(entries, None, hits.number, hits.is_refund)


def _read_long_entries(
    node: MapNode | ListNode, path: str, report: Report
) -> tuple[tuple[str, str], ...]:
    """Return entries that are a map, or a list of maps, in which a key may come again."""
    items = node.items if isinstance(node, ListNode) else (node,)
    if not any(isinstance(item, MapNode) and item.entries for item in items):
        report.error(node, path, "must be a map of entries, or a list of such maps")
    found: list[tuple[str, str]] = []
    for index, item in enumerate(items):
        below = path if item is node else f"{path}[{index}]"
        if isinstance(item, MapNode):
            found += _read_entries(item, below, report)
        else:
            report.error(item, below, "must be a map of entries")
    return tuple(found)


def _read_entries(node: MapNode, path: str, report: Report) -> tuple[tuple[str, str], ...]:
    found = []
    for key, value in node.entries:
        below = join_path(path, key.text)
        if not isinstance(value, Scalar):
            report.error(value, below, "must be text")
        elif not key.text or max(len(key.text), len(value.text)) > MAX_TEXT_CHARACTERS:
            message = f"a key has 1 to {MAX_TEXT_CHARACTERS:,} characters, a value at most as many"
            report.error(key, below, message)
        else:
            found.append((key.text, value.text))
    return tuple(found)


def _read_override(item: MapNode, path: str, report: Report) -> Override | None:
    node = read_map(item, "override", path, report)
    if node is None:
        return None
    below = join_path(path, "override")
    check_keys(node, below, _OVERRIDE_KEYS, report)
    for name in _OVERRIDE_KEYS:
        if value_of(node, name) is None:
            report.error(node, join_path(below, name), "is missing; an override has both")
    number = read_integer(node, "requests_per_unit", below, report, largest=2**32 - 1)
    text = read_text(node, "unit", below, report)
    unit = UNITS.get(text.upper())
    if unit is None and text:
        accepted = one_of([f"`{name.lower()}`" for name in UNITS])
        message = f"{quote(text)} is not a unit; accepted: {accepted}"
        report.error(node.get("unit"), join_path(below, "unit"), message)
    return None if number is None or unit is None else Override(number, unit)
