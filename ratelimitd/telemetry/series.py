"""What is counted: fixed-bucket histograms, and a bounded table with one row for each rule.

Rules:
- Counting is integer addition on a row that a dictionary finds; nothing is formatted here.
- A name that the policy does not hold (values asked for by `detailed_metric`, `value_to_metric`
  or an override) gets a row only below MAX_DYNAMIC_SERIES; the others share the row OVERFLOW_KEY,
  which no name is: keys of entries are not empty.
- Rows of rules that left the policy are kept, so that a scrape still sees their last counts,
  but only the MAX_RETIRED_SERIES newest of them.
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator
from collections.abc import Set as AbstractSet

from ratelimitd.decisions.verdict import RuleCount, RuleOutcome
from ratelimitd.policy.loaded import RuleNames
from ratelimitd.policy.match import limit_metric_key
from ratelimitd.policy.model import Node, Policy

# A process serves one scrape in some ten milliseconds at this size, and a policy that names
# its values on purpose (a few hundred tenants) still fits.
MAX_DYNAMIC_SERIES = 1_000

# Enough for the rules that one edit removes; older ones were scraped long ago.
MAX_RETIRED_SERIES = 1_000

# A value longer than this says nothing on a dashboard and would make the table's memory a
# matter of what callers send.
MAX_DYNAMIC_NAME = 256

OVERFLOW_KEY = ""
OVERFLOW_NAME = "(other)"
"""How it is shown; a rule of this name is shown in one more pair of brackets."""

_LIKE_OVERFLOW = re.compile(r"\(+other\)+")

# As many as take well below a millisecond to look at, or to forget.
ROWS_PER_STEP = 500


class Histogram:
    """Counts of values up to and including each bound, beyond the last one, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Start empty; `bounds` ascend."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value` in the first bucket whose bound is not below it, so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (upper bound, values up to it) for each bucket, as the exposition wants them."""
        buckets: list[tuple[str, float]] = []
        running = 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            running += count
            buckets.append((str(float(bound)), running))
        buckets.append(("+Inf", running + self.counts[-1]))
        return buckets


class RuleSeries:
    """Everything counted for one rule; hits are in units of cost, the rest in descriptors."""

    __slots__ = (
        "cached_hits",
        "domain",
        "hits",
        "name",
        "near",
        "near_hits",
        "outcomes",
        "over_hits",
        "overflowed",
        "refunded_hits",
        "rule",
        "shadow_hits",
        "within_hits",
    )

    def __init__(self, domain: str, name: str, rule: str) -> None:
        """Start at zero; `name` is the label, `rule` the policy's name of the limit."""
        self.domain = domain
        self.name = name
        self.rule = rule
        # By plain texts: an enumeration's member is hashed by a function of Python's.
        self.outcomes = {RuleOutcome.ALLOWED.value: 0, RuleOutcome.REFUSED.value: 0}
        self.near = 0
        self.hits = 0
        self.over_hits = 0
        self.near_hits = 0
        self.within_hits = 0
        self.shadow_hits = 0
        self.cached_hits = 0
        self.refunded_hits = 0
        self.overflowed = 0

    def add(self, count: RuleCount) -> None:
        """Add what one descriptor did."""
        outcome = count.outcome.value
        if outcome in self.outcomes:
            self.outcomes[outcome] += 1
        else:
            self.outcomes[outcome] = 1
        self.hits += count.hits
        self.within_hits += count.within_hits
        self.over_hits += count.over_hits
        self.near_hits += count.near_hits
        self.shadow_hits += count.shadow_hits
        self.cached_hits += count.cached_hits
        self.refunded_hits += count.refunded_hits
        if count.is_near:
            self.near += 1
        if count.is_overflowed:
            self.overflowed += 1


class RuleTable:
    """The rows of all rules, found by (domain, metric key); bounded whatever callers send."""

    def __init__(self) -> None:
        """Start without a policy: until one is loaded, every name counts as dynamic."""
        self.rows: dict[tuple[str, str], RuleSeries] = {}
        self.overflowed = 0
        self._static: AbstractSet[tuple[str, str]] = frozenset()
        self._dynamic_count = 0

    def row(self, domain: str, metric_key: str, rule: str) -> RuleSeries:
        """Return the row of a rule under a name: its own, or its domain's OVERFLOW_KEY."""
        key = (domain, metric_key)
        found = self.rows.get(key)
        if found is not None:
            return found
        if key in self._static:
            return self._add(key, rule)
        if self._dynamic_count < MAX_DYNAMIC_SERIES and len(metric_key) <= MAX_DYNAMIC_NAME:
            self._dynamic_count += 1
            return self._add(key, rule)
        self.overflowed += 1
        overflow = (domain, OVERFLOW_KEY)
        return self.rows.get(overflow) or self._add(overflow, "")

    def snapshot(self) -> list[RuleSeries]:
        """Return all rows; safe beside a thread that counts."""
        return list(self.rows.values())

    def reload(self, names: RuleNames, domains: Collection[str]) -> Iterator[None]:
        """Take over the names of a policy; return the steps that tidy the rows up.

        They forget the oldest rows that belong to no name. Counting goes on between them.
        """
        self._static = names.keys
        return self._tidy(names, domains)

    def _add(self, key: tuple[str, str], rule: str) -> RuleSeries:
        """Add an empty row under `key`."""
        row = RuleSeries(to_label(key[0]), _to_name(key[1]), rule)
        self.rows[key] = row
        return row

    def _tidy(self, names: RuleNames, domains: Collection[str]) -> Iterator[None]:
        dynamic_before, dynamic_count = self._dynamic_count, 0
        retired: list[tuple[str, str]] = []
        for index, key in enumerate(list(self.rows), 1):
            if index % ROWS_PER_STEP == 0:
                yield
            if key in names.keys or (key[1] == OVERFLOW_KEY and key[0] in domains):
                continue
            if self.rows[key].rule in names.rules:
                dynamic_count += 1
            else:
                retired.append(key)
        for index, key in enumerate(retired[:-MAX_RETIRED_SERIES], 1):
            if index % ROWS_PER_STEP == 0:
                yield
            del self.rows[key]
        # Rows that came meanwhile were counted on top of what was there before.
        self._dynamic_count += dynamic_count - dynamic_before


def names_of(policy: Policy) -> RuleNames:
    """Return the names of `policy` by a walk, for one that came without."""
    found = [(node, limit) for _, node in limit_nodes(policy) for limit in node.limits]
    return RuleNames(
        keys=frozenset(
            (limit.domain, limit_metric_key(node.metric_key, node.limits, limit))
            for node, limit in found
        ),
        rules=frozenset(limit.rule for _, limit in found),
        count=len(found),
    )


def limit_nodes(policy: Policy) -> Iterator[tuple[str, Node]]:
    """Yield (domain, node) for each node of `policy` that has limits, once."""
    for domain in policy.domains.values():
        for node in _nodes(domain.root):
            if node.limit is not None:
                yield domain.name, node


def to_label(text: str) -> str:
    """Return `text` as a label: a lone surrogate, which UTF-8 cannot hold, becomes `?`."""
    return text.encode("utf-8", "replace").decode()


def _to_name(metric_key: str) -> str:
    """Return the label of a metric key, which never is that of another."""
    if metric_key == OVERFLOW_KEY:
        return OVERFLOW_NAME
    label = to_label(metric_key)
    return f"({label})" if _LIKE_OVERFLOW.fullmatch(label) else label


def _nodes(root: Node) -> Iterator[Node]:
    """Yield `root` and everything below it; a wildcard may also stand among the exact names."""
    pending = {id(root): root}
    while pending:
        _, node = pending.popitem()
        yield node
        below = [*node.exact.values(), *(wildcard.node for wildcard in node.wildcards)]
        pending.update({id(child): child for child in below})
