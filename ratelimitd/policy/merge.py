"""The entries of one map: keys given twice are reported, and `<<` is resolved.

Rules:
- A key of the map itself wins over a merged one; of merged maps the first wins.
- Where both sides hold a map, the maps are merged, so a `rate_limit` may add to a merged one.
- `<<` below a key that it also holds is an error: YAML readers disagree on who wins there.
"""

from collections.abc import Sequence
from typing import TypeAlias

from ratelimitd.policy.nodes import ListNode, MapNode, Scalar, YamlNode
from ratelimitd.policy.report import Report, join_path, quote

Entry: TypeAlias = tuple[Scalar, YamlNode]


def unique_entries(entries: Sequence[Entry], path: str, report: Report) -> tuple[Entry, ...]:
    """Return the entries of the map at `path`, each key once."""
    own: dict[str, Entry] = {}
    merged: dict[str, Entry] = {}
    merge_key: Scalar | None = None
    for key, value in entries:
        if key.is_plain and key.text == "<<":
            if merge_key is not None:
                report.error(key, path, "`<<` is given twice in one map; give it a list of maps")
            merge_key = key
            for source in _sources(key, value, path, report):
                _check_order(key, source, own, path, report)
                _overlay(merged, source.entries, is_stronger=False)
        elif key.text in own:
            first = own[key.text][0].line
            message = f"{quote(key.text)} is given twice in one map, first in line {first}"
            report.error(key, join_path(path, key.text), message)
        else:
            own[key.text] = (key, value)
    if not merged:
        return tuple(own.values())
    _overlay(merged, tuple(own.values()), is_stronger=True)
    return tuple(merged.values())


def _sources(key: Scalar, value: YamlNode, path: str, report: Report) -> list[MapNode]:
    """Return the maps that `<<` names, strongest first."""
    items = value.items if isinstance(value, ListNode) else (value,)
    sources = [item for item in items if isinstance(item, MapNode)]
    if len(sources) != len(items):
        report.error(key, path, "`<<` takes a map or a list of maps")
    return sources


def _check_order(
    key: Scalar, source: MapNode, own: dict[str, Entry], path: str, report: Report
) -> None:
    for name, _ in source.entries:
        if name.text in own:
            message = f"`<<` stands below {quote(name.text)}, which it also holds; put it first"
            report.error(key, path, message)


def _overlay(below: dict[str, Entry], above: Sequence[Entry], *, is_stronger: bool) -> None:
    """Add the entries `above` to `below`; of a key on both sides the stronger wins."""
    for key, value in above:
        known = below.get(key.text)
        if known is None:
            below[key.text] = (key, value)
        elif is_stronger:
            below[key.text] = (key, _combine(value, known[1]))
        else:
            below[key.text] = (known[0], _combine(known[1], value))


def _combine(strong: YamlNode, weak: YamlNode) -> YamlNode:
    """Return `strong`, with what only `weak` holds if both are maps."""
    if not (isinstance(strong, MapNode) and isinstance(weak, MapNode)):
        return strong
    entries = {key.text: (key, value) for key, value in strong.entries}
    _overlay(entries, weak.entries, is_stronger=False)
    return MapNode(tuple(entries.values()), strong.line, strong.column)
