"""The body of `metadata` becomes a JSON object, as protobuf's Struct would take it."""

import math

from ratelimitd.json_value import JsonObject, JsonValue
from ratelimitd.policy.nodes import ListNode, MapNode, Scalar, YamlNode
from ratelimitd.policy.report import Report, join_path, quote
from ratelimitd.policy.scalars import resolve

MAX_METADATA_DEPTH = 16
"""Protobuf readers give up at 100 messages inside one another; a Struct spends 3 a level."""

LARGEST_EXACT_INTEGER = 2**53
"""A Struct's numbers are doubles; larger integers are rounded to one."""


def read_metadata(node: YamlNode | None, path: str, report: Report) -> JsonObject | None:
    """Return the metadata of a rule; None when absent, null or wrong (and then reported)."""
    is_null = isinstance(node, Scalar) and node.is_plain and resolve(node.text) is None
    if node is None or is_null:
        return None
    if isinstance(node, MapNode):
        return _read_object(node, path, report, 1)
    report.error(node, path, "must be a map; it is sent as a protobuf Struct")
    return None


def _read_object(node: MapNode, path: str, report: Report, depth: int) -> JsonObject:
    result: dict[str, JsonValue] = {}
    for key, value in node.entries:
        below = join_path(path, key.text)
        if key.is_plain and not isinstance(resolve(key.text), str):
            report.error(key, path, f"the key {quote(key.text)} is not text; write it in quotes")
        else:
            result[key.text] = _read_value(value, below, report, depth + 1)
    return result


def _read_value(node: YamlNode, path: str, report: Report, depth: int) -> JsonValue:
    if depth > MAX_METADATA_DEPTH and not isinstance(node, Scalar):
        report.error(node, path, f"metadata may be {MAX_METADATA_DEPTH} levels deep, not more")
        return None
    if isinstance(node, MapNode):
        return _read_object(node, path, report, depth)
    if isinstance(node, ListNode):
        return [
            _read_value(item, f"{path}[{index}]", report, depth + 1)
            for index, item in enumerate(node.items)
        ]
    return _read_scalar(node, path, report)


def _read_scalar(node: Scalar, path: str, report: Report) -> JsonValue:
    if not node.is_plain:
        return node.text
    value = resolve(node.text)
    if isinstance(value, float) and not math.isfinite(value):
        report.error(node, path, f"{quote(node.text)} is no JSON number; write it in quotes")
        return None
    if isinstance(value, int) and abs(value) > LARGEST_EXACT_INTEGER:
        return float(value)
    return value
