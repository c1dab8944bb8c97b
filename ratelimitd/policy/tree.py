"""The `descriptors` of a file become nodes of its domain's tree.

Rules:
- A node is found by its joined name, `key_value` or `key`; a name with `*` is a wildcard too.
- What a rule's printed name shows of a sensitive exact value is 8 hex digits of its hash.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ratelimitd.policy.fields import read_flag, read_list, read_map, read_text, value_of
from ratelimitd.policy.limits import RuleContext, read_limit
from ratelimitd.policy.mask import mask
from ratelimitd.policy.match import limit_metric_key
from ratelimitd.policy.metadata import read_metadata
from ratelimitd.policy.model import Limit, Node, Position, Wildcard
from ratelimitd.policy.nodes import ListNode, MapNode
from ratelimitd.policy.own_keys import Defaults
from ratelimitd.policy.report import Report, join_path, quote

MAX_DESCRIPTORS = 200_000
"""Of a whole policy; about 200 MB of compiled tree."""

MAX_LIMITS = 8
"""Of one descriptor; each is decided for every request."""

MAX_DESCRIPTOR_DEPTH = 32
"""Levels of descriptors; Envoy's own actions rarely build more than five entries."""


@dataclass(slots=True)
class Level:
    """The children of one node while they are gathered, from one file or several."""

    exact: dict[str, Node] = field(default_factory=dict)
    wildcards: list[Wildcard] = field(default_factory=list)


@dataclass(slots=True)
class Budget:
    """How many descriptors the policy has so far."""

    descriptors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContext:
    """What holds for every rule of one file."""

    report: Report
    budget: Budget
    domain: str
    secret_keys: frozenset[str]
    defaults: Defaults
    counts_denied: bool


@dataclass(frozen=True, slots=True)
class _Parent:
    """What a node inherits from the levels above it."""

    labels: str = ""
    is_sensitive: bool = False
    has_value_metric: bool = False
    depth: int = 0


@dataclass(frozen=True, slots=True)
class _Name:
    """How a node is found (`joined`) and printed (`label`)."""

    joined: str
    label: str
    has_value: bool
    is_sensitive: bool
    is_shared: bool
    has_value_metric: bool
    key: str


def read_descriptors(root: MapNode, level: Level, file: FileContext) -> None:
    """Add the descriptors of a whole file to the top `level` of its domain."""
    _read_children(root, "", _Parent(), level, file)


def _read_children(
    node: MapNode, path: str, parent: _Parent, level: Level, file: FileContext
) -> None:
    """Add the `descriptors` of a map to `level`."""
    items = read_list(node, "descriptors", path, file.report)
    below = join_path(path, "descriptors")
    if items and parent.depth >= MAX_DESCRIPTOR_DEPTH:
        message = f"descriptors may be {MAX_DESCRIPTOR_DEPTH} levels deep, not more"
        file.report.error(node.key("descriptors"), below, message)
        return
    for index, item in enumerate(items):
        file.budget.descriptors += 1
        if file.budget.descriptors > MAX_DESCRIPTORS:
            message = f"the policy has more than {MAX_DESCRIPTORS:,} descriptors"
            file.report.error(item, below, message)
            return
        if isinstance(item, MapNode):  # anything else was reported by the key check
            _read_descriptor(item, f"{below}[{index}]", parent, level, file)


def _read_descriptor(
    node: MapNode, path: str, parent: _Parent, level: Level, file: FileContext
) -> None:
    """Add one descriptor, and everything below it, to `level`."""
    name = _read_name(node, path, file)
    below = _Parent(
        f"{parent.labels}.{name.label}" if parent.labels else name.label,
        parent.is_sensitive or name.is_sensitive,
        parent.has_value_metric or name.has_value_metric,
        parent.depth + 1,
    )
    limits = _read_limits(node, path, below, file)
    children = Level()
    _read_children(node, path, below, children, file)
    if name.joined in level.exact:
        first = level.exact[name.joined].position
        message = f"{quote(name.label)} is already a rule at this level, in {first}"
        file.report.error(node.key("key"), f"{path}.key", message)
        return
    compiled = Node(
        name=name.joined,
        rule=f"{file.domain}.{below.labels}",
        position=Position(file.report.file, node.line, node.column),
        limits=limits,
        exact=children.exact,
        wildcards=tuple(children.wildcards),
        has_value=name.has_value,
        is_shared=name.is_shared,
        has_value_metric=name.has_value_metric,
        is_sensitive=name.is_sensitive,
        label=name.label,
        key=name.key,
        metric_key=below.labels,
        needs_metric_walk=below.has_value_metric
        or any(limit.has_detailed_metric for limit in limits),
        has_times=any(limit.is_timed for limit in limits)
        or any(child.has_times for child in children.exact.values()),
    )
    if name.joined:
        level.exact[name.joined] = compiled
    if "*" in name.joined:
        level.wildcards.append(Wildcard(tuple(name.joined.split("*")), compiled))


def _read_name(node: MapNode, path: str, file: FileContext) -> _Name:
    """Return what identifies a descriptor; without a key the name is empty, and reported."""
    report = file.report
    key = read_text(node, "key", path, report)
    value = read_text(node, "value", path, report)
    if not key:
        report.error(node.get("key") or node, f"{path}.key", "is missing or empty")
    joined = f"{key}_{value}" if key and value else key
    is_sensitive = read_flag(node, "sensitive", path, report) or key in file.secret_keys
    label = joined
    if is_sensitive and value and "*" not in value:
        label = f"{key}_{mask(value)}"
    is_shared = read_flag(node, "share_threshold", path, report)
    if is_shared and "*" not in joined:
        message = "needs a `*` in `value` or `key`; without one there is nothing to share"
        report.error(node.key("share_threshold"), f"{path}.share_threshold", message)
    return _Name(
        joined,
        label,
        has_value=bool(value),
        is_sensitive=is_sensitive,
        is_shared=is_shared,
        has_value_metric=read_flag(node, "value_to_metric", path, report),
        key=key,
    )


def _read_limits(
    node: MapNode, path: str, context: _Parent, file: FileContext
) -> tuple[Limit, ...]:
    """Return the limits of a descriptor; its modes and metadata are checked without any too."""
    report = file.report
    rule = RuleContext(
        domain=file.domain,
        rule=f"{file.domain}.{context.labels}",
        file=report.file,
        defaults=file.defaults,
        counts_denied=file.counts_denied,
        is_shadow=read_flag(node, "shadow_mode", path, report),
        is_quota=read_flag(node, "quota_mode", path, report),
        is_sensitive=context.is_sensitive,
        has_detailed_metric=read_flag(node, "detailed_metric", path, report),
        metadata=read_metadata(node.get("metadata"), f"{path}.metadata", report),
    )
    rate_limit = read_map(node, "rate_limit", path, report)
    key = node.key("rate_limit")
    listed = read_list(node, "limits", path, report)
    if rate_limit is not None and key is not None:
        if listed:
            message = "stands beside `rate_limit`; put that one into the list"
            report.error(node.key("limits"), f"{path}.limits", message)
        return (read_limit(rate_limit, key, f"{path}.rate_limit", report, rule),)
    named = value_of(node, "limits")
    if not listed and node.key("limits") is not None and isinstance(named, ListNode | None):
        message = "is empty; list the limits of this rule, or leave the key out"
        report.error(node.key("limits"), f"{path}.limits", message)
    if len(listed) > MAX_LIMITS:
        message = f"has {len(listed)} limits; at most {MAX_LIMITS} are accepted"
        report.error(node.key("limits"), f"{path}.limits", message)
        return ()
    rule = replace(rule, is_listed=True)
    limits: list[Limit] = []
    for index, item in enumerate(listed):
        if not isinstance(item, MapNode):
            continue  # reported by the key check
        below = f"{path}.limits[{index}]"
        limit = read_limit(item, item, below, report, rule)
        _check_apart(limit, limits, item, below, report)
        limits.append(limit)
    return tuple(replace(limit, has_siblings=len(limits) > 1) for limit in limits)


def _check_apart(
    limit: Limit, others: Sequence[Limit], node: MapNode, path: str, report: Report
) -> None:
    """Report a limit that could not be told from another one of its descriptor."""
    for index, other in enumerate(others):
        if _counts_as(limit) == _counts_as(other):
            message = (
                f"counts as limits[{index}] does: same algorithm, window and scope; "
                "they would share one counter"
            )
            report.error(node, path, message)
            return
        if limit_metric_key("", (limit, other), limit) == limit_metric_key(
            "", (limit, other), other
        ):
            what = f"the name {quote(limit.name)}" if limit.name else "no name, and the same scope,"
            message = f"has {what} as limits[{index}] has; give it a name of its own"
            report.error(node.get("name") or node, f"{path}.name", message)
            return


def _counts_as(limit: Limit) -> tuple[object, ...]:
    return limit.algorithm, limit.window_us, limit.calendar, limit.scope
