"""Finds the rule of a descriptor: a greedy walk down the tree, one entry per level.

Rules:
- At each level: the joined name `key_value`, else the first wildcard in the order of the file,
  else `key` alone, else matching stops. A choice is never taken back.
- The limit is the one of the node that the *last* entry reaches; nothing on the way counts.
- A counter belongs to a value, not to a rule: the parts say which value, and `counter_value`
  is the pattern where a rule shares one counter.
- A secret value is in no metric key: the rule's own text stands there.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from ratelimitd.policy.model import Domain, Limit, Node


class MatchedBy(StrEnum):
    """How an entry reached its node."""

    EXACT = "exact"
    WILDCARD = "wildcard"
    DEFAULT = "default"


class Part(NamedTuple):
    """One matched entry; `counter_value` is what tells its counter from others."""

    key: str
    value: str
    node: Node
    matched_by: MatchedBy
    counter_value: str
    is_secret: bool


class Match(NamedTuple):
    """Where the walk ended.

    `node` is None when an entry matched nothing, or there was none; `parts` then ends before
    that entry. `metric_key` is without the domain, and empty without a node.
    """

    node: Node | None
    limit: Limit | None
    parts: tuple[Part, ...]
    metric_key: str

    @property
    def limits(self) -> tuple[Limit, ...]:
        """All limits of the node, which are decided together."""
        return self.node.limits if self.node is not None else ()

    @property
    def is_whitelisted(self) -> bool:
        """Whether the walk ended in a leaf without a limit, which lets everything pass."""
        node = self.node
        return node is not None and node.limit is None and not node.exact


# The node of an entry, and how it was reached: an index into HOW.
Step = tuple[Node, int]

HOW: Final = (MatchedBy.EXACT, MatchedBy.WILDCARD, MatchedBy.DEFAULT)
# Plain numbers: reading an enum member costs a look-up on every level of every request.
EXACT, _WILDCARD, DEFAULT = range(3)


def match(domain: Domain, entries: Sequence[tuple[str, str]]) -> Match:
    """Return the node and limit of a descriptor's `entries` in `domain`."""
    steps = walk(domain, entries)
    parts = tuple(
        [
            to_part(domain, key, value, step)
            for (key, value), step in zip(entries, steps, strict=False)
        ]
    )
    if not parts or len(parts) < len(entries):
        return Match(None, None, parts, "")
    node = parts[-1].node
    metric_key = node.metric_key
    has_masked = any(part.is_secret and not part.node.is_sensitive for part in parts)
    if node.needs_metric_walk or has_masked:
        metric_key = _walk_metric_key(node, parts)
    return Match(node, node.limit, parts, metric_key)


def walk(domain: Domain, entries: Sequence[tuple[str, str]]) -> list[Step]:
    """Return the step of each entry, up to the first that matches nothing."""
    node = domain.root
    steps: list[Step] = []
    for key, value in entries:
        found = step_from(node, key, value)
        if found is None:
            break
        steps.append(found)
        node = found[0]
    return steps


def step_from(node: Node, key: str, value: str) -> Step | None:
    """Return the step of one entry from `node`; None if it matches nothing."""
    joined = f"{key}_{value}"
    child = node.exact.get(joined)
    if child is not None:
        return child, EXACT
    if node.wildcards:
        child = _first_wildcard(node, joined)
        if child is not None:
            return child, _WILDCARD
    child = node.exact.get(key)
    return None if child is None else (child, DEFAULT)


def take_attributes(
    domain: Domain, entries: Sequence[tuple[str, str]]
) -> tuple[tuple[tuple[str, str], ...], dict[str, str]]:
    """Return the entries that are matched, and the values of the attributes among them."""
    attributes: dict[str, str] = {}
    rest: list[tuple[str, str]] = []
    for entry in entries:
        if entry[0] in domain.attributes:
            attributes.setdefault(*entry)
        else:
            rest.append(entry)
    return tuple(rest), attributes


def limit_metric_key(metric_key: str, limits: Sequence[Limit], limit: Limit) -> str:
    """Return what metrics call one limit of a node: with its name, where there are several.

    A limit is called the same while others of its node are away.
    """
    if len(limits) == 1 and not limit.has_siblings:
        return metric_key
    return f"{metric_key}/{limit.name or limit.scope.value}"


def to_part(domain: Domain, key: str, value: str, step: Step) -> Part:
    """Return an entry as its step matched it."""
    node, how = step
    is_secret = node.is_sensitive or key in domain.secret_keys
    is_shared = node.is_shared and how == _WILDCARD
    counter_value = node.name.removeprefix(f"{key}_") if is_shared else value
    return Part(key, value, node, HOW[how], counter_value, is_secret)


def matches_pattern(pieces: tuple[str, ...], name: str) -> bool:
    """Tell whether `name` is the pieces in order with anything, or nothing, between them."""
    first, last = pieces[0], pieces[-1]
    end = len(name) - len(last)
    position = len(first)
    if end < position or not name.startswith(first) or not name.endswith(last):
        return False
    for piece in pieces[1:-1]:
        found = name.find(piece, position, end)
        if found < 0:
            return False
        position = found + len(piece)
    return True


def _first_wildcard(node: Node, joined: str) -> Node | None:
    for wildcard in node.wildcards:
        if matches_pattern(wildcard.pieces, joined):
            return wildcard.node
    return None


def _walk_metric_key(node: Node, parts: Sequence[Part]) -> str:
    """Return the metric key level by level, with the values that the rules ask for."""
    is_detailed = node.limit is not None and node.limit.has_detailed_metric
    return ".".join([_metric_level(part, is_detailed=is_detailed) for part in parts])


def _metric_level(part: Part, *, is_detailed: bool) -> str:
    node = part.node
    if part.is_secret:
        # A node that is not sensitive itself may spell the value in its joined name.
        has_value = part.matched_by is MatchedBy.EXACT and not node.is_sensitive
        return part.key if has_value else node.label
    is_shared = node.is_shared and part.matched_by is MatchedBy.WILDCARD
    if is_shared or not (is_detailed or node.has_value_metric):
        return node.label
    return f"{part.key}_{part.value}" if part.value else part.key
