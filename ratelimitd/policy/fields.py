"""Reads one key of a map as text, truth value, number, choice, map or list of maps.

Rules:
- An absent key and a null (`~`, `null`, nothing) mean the default, as in the reference server.
- What has the wrong shape is reported and read as the default, so that reading goes on.
"""

from enum import StrEnum
from typing import TypeVar

from ratelimitd.policy.nodes import ListNode, MapNode, Scalar, YamlNode
from ratelimitd.policy.report import Report, join_path, one_of, quote
from ratelimitd.policy.scalars import is_octal, resolve

Choice = TypeVar("Choice", bound=StrEnum)

MAX_TEXT_CHARACTERS = 4096
"""A key, value, name or domain: longer than any header a gateway lets in by default."""

MAX_REQUESTS_PER_UNIT = 2**32 - 1
"""What fits into Envoy's RateLimit message."""


def value_of(node: MapNode, name: str) -> YamlNode | None:
    """Return the value of key `name`; None when absent or null."""
    value = node.get(name)
    return None if is_null(value) else value


def is_null(value: YamlNode | None) -> bool:
    """Tell whether a value is `~`, `null` or nothing."""
    return isinstance(value, Scalar) and value.is_plain and resolve(value.text) is None


def read_text(node: MapNode, name: str, path: str, report: Report) -> str:
    """Return the text exactly as written, or "" when absent or null."""
    value = value_of(node, name)
    if value is None:
        return ""
    below = join_path(path, name)
    if not isinstance(value, Scalar):
        report.error(value, below, "must be text")
        return ""
    if len(value.text) > MAX_TEXT_CHARACTERS:
        report.error(
            value,
            below,
            f"has {len(value.text):,} characters; at most {MAX_TEXT_CHARACTERS:,} are accepted",
        )
        return ""
    return value.text


def read_flag(
    node: MapNode, name: str, path: str, report: Report, *, default: bool = False
) -> bool:
    """Return a truth value as YAML 1.1 writes them."""
    value = value_of(node, name)
    if value is None:
        return default
    flag = resolve(value.text) if isinstance(value, Scalar) and value.is_plain else None
    if isinstance(flag, bool):
        return flag
    given = f", not {_describe(value)}"
    report.error(value, join_path(path, name), f"must be `true` or `false`, without quotes{given}")
    return default


def read_choice(node: MapNode, name: str, path: str, report: Report, *, default: Choice) -> Choice:
    """Return the member of `default`'s enumeration that the text names."""
    value = value_of(node, name)
    if value is None:
        return default
    kind = type(default)
    names = [member.value for member in kind]
    if isinstance(value, Scalar) and value.text in names:
        return kind(value.text)
    choices = one_of([quote(choice) for choice in names])
    report.error(value, join_path(path, name), f"must be {choices}, not {_describe(value)}")
    return default


def read_number(
    node: MapNode,
    name: str,
    path: str,
    report: Report,
    *,
    largest: int | None = None,
    smallest: int = 0,
) -> int | None:
    """Return a whole number within bounds, by default MAX_REQUESTS_PER_UNIT; None if absent.

    What is wrong is reported and read as 0.
    """
    value = value_of(node, name)
    if value is None:
        return None
    below = join_path(path, name)
    most = MAX_REQUESTS_PER_UNIT if largest is None else largest
    number = resolve(value.text) if isinstance(value, Scalar) and value.is_plain else None
    if isinstance(number, bool) or not isinstance(number, int):
        report.error(
            value, below, f"must be a whole number, without quotes, not {_describe(value)}"
        )
        return 0
    if not smallest <= number <= most:
        report.error(value, below, f"{number} is not from {smallest} to {most}")
        return 0
    if isinstance(value, Scalar) and is_octal(value.text):
        report.warn(
            value, below, f"{quote(value.text)} is octal in YAML, so it means {number}; drop the 0"
        )
    return number


def read_integer(
    node: MapNode, name: str, path: str, report: Report, *, smallest: int = 0, largest: int
) -> int | None:
    """Return a whole number within bounds; None when absent, null or wrong."""
    errors = report.error_count
    number = read_number(node, name, path, report, largest=largest, smallest=smallest)
    return None if report.error_count > errors else number


def read_map(node: MapNode, name: str, path: str, report: Report) -> MapNode | None:
    """Return the map under `name`; None when absent or null."""
    value = value_of(node, name)
    if value is None or isinstance(value, MapNode):
        return value
    report.error(value, join_path(path, name), f"must be a map, not {_describe(value)}")
    return None


def read_list(node: MapNode, name: str, path: str, report: Report) -> tuple[YamlNode, ...]:
    """Return the items under `name`; none when absent or null."""
    value = value_of(node, name)
    if value is None:
        return ()
    if isinstance(value, ListNode):
        return value.items
    report.error(value, join_path(path, name), f"must be a list, not {_describe(value)}")
    return ()


def _describe(value: YamlNode) -> str:
    if isinstance(value, Scalar):
        return quote(value.text) if value.is_plain else f'the text "{quote(value.text)[1:-1]}"'
    return "a list" if isinstance(value, ListNode) else "a map"
