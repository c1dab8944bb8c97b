"""A second opinion on matching, written from the prose and not from the code.

At each level, for entry (k, v): the rule named `k_v`; else the first rule of the file whose name
has a `*` and fits `k_v`; else the rule named `k`; else nothing. There is no way back. The limit
is the one of the rule that the last entry reaches.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rule:
    """One descriptor as it stands in a file."""

    key: str
    value: str = ""
    requests_per_unit: int | None = None
    is_shared: bool = False
    shows_value: bool = False
    is_detailed: bool = False
    is_sensitive: bool = False
    children: tuple["Rule", ...] = ()

    @property
    def name(self) -> str:
        """How the rule is found."""
        return self.key + ("_" + self.value if self.value else "")


@dataclass
class Outcome:
    """The rules that the entries reached, in order, and how."""

    rules: list[Rule] = field(default_factory=list)
    ways: list[str] = field(default_factory=list)
    is_complete: bool = False


def find(rules: Sequence[Rule], entries: Sequence[tuple[str, str]]) -> Outcome:
    """Walk down the rules, one entry at a time."""
    outcome = Outcome()
    for key, value in entries:
        candidates = [
            *(("exact", rule) for rule in rules if rule.name == f"{key}_{value}"),
            *(("wildcard", rule) for rule in rules if _fits(rule, f"{key}_{value}")),
            *(("default", rule) for rule in rules if rule.name == key),
        ]
        if not candidates:
            return outcome
        way, chosen = candidates[0]
        outcome.ways.append(way)
        outcome.rules.append(chosen)
        rules = chosen.children
    outcome.is_complete = bool(entries)
    return outcome


def limit_of(outcome: Outcome) -> int | None:
    """Return the limit that applies, None for none."""
    return outcome.rules[-1].requests_per_unit if outcome.is_complete else None


def counter_values(outcome: Outcome, entries: Sequence[tuple[str, str]]) -> list[str]:
    """Return the value that each matched level puts into the counter's identity."""
    result = []
    for (key, value), rule, way in zip(entries, outcome.rules, outcome.ways, strict=False):
        if way == "wildcard" and rule.is_shared:
            has_prefix = rule.name.startswith(key + "_")
            result.append(rule.name[len(key) + 1 :] if has_prefix else rule.name)
        else:
            result.append(value)
    return result


def metric_key(outcome: Outcome, entries: Sequence[tuple[str, str]]) -> str:
    """Return the name in metrics, for entries of which none is secret."""
    if not outcome.is_complete:
        return ""
    leaf = outcome.rules[-1]
    is_detailed = leaf.is_detailed and leaf.requests_per_unit is not None
    levels = []
    for (key, value), rule, way in zip(entries, outcome.rules, outcome.ways, strict=True):
        at_runtime = f"{key}_{value}" if value else key
        if rule.is_shared and way == "wildcard":
            levels.append(rule.name)
        elif is_detailed or rule.shows_value:
            levels.append(at_runtime)
        else:
            levels.append(rule.name)
    return ".".join(levels)


def _fits(rule: Rule, text: str) -> bool:
    if "*" not in rule.name:
        return False
    pattern = "(?s:.*)".join(re.escape(piece) for piece in rule.name.split("*"))
    return re.fullmatch(pattern, text) is not None
