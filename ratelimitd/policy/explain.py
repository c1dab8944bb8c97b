"""Tells which rule a descriptor matches and why, or where matching stops."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from ratelimitd.policy.dump import describe_amount, modes
from ratelimitd.policy.mask import mask
from ratelimitd.policy.match import Match, MatchedBy, Part, match, take_attributes
from ratelimitd.policy.model import Domain, Limit, Node, NoMatch

NAMES_SHOWN = 10
"""Of the names that an entry could have matched, so many are listed."""

NAMES_COMPARED = 1_000
"""Among so many names the nearest one is looked for; comparing takes microseconds a name."""

CHARACTERS_SHOWN = 200
"""Of an entry, so much is repeated; the caller knows the rest."""

SUGGESTION_CUTOFF = 0.6
"""How alike a name must be to be suggested, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Step:
    """One entry against one level; `matched_by` is exact, wildcard, default or none."""

    entry: str
    matched_by: str
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of a descriptor; `limit` and `position` are empty where none applies."""

    steps: tuple[Step, ...]
    limit: str
    position: str
    summary: str


def explain(
    domain: Domain | None,
    entries: Sequence[tuple[str, str]],
    *,
    hide: Callable[[str], str] = mask,
) -> Explanation:
    """Explain a descriptor; `domain` is None when the policy has none of that name.

    Secret values pass through `hide`.
    """
    if domain is None:
        return Explanation((), "", "", "The policy has no such domain, so the answer is OK.")
    matched, attributes = take_attributes(domain, entries)
    found = match(domain, matched)
    steps = [_attribute_step(domain, key, value, hide) for key, value in attributes.items()]
    steps += [_matched_step(part, hide) for part in found.parts]
    if len(found.parts) < len(matched):
        steps.append(_stopped_step(domain, found.parts, matched[len(found.parts)], hide))
    position = str(found.limit.position) if found.limit else ""
    return Explanation(
        tuple(steps), _describe_limits(found), position, _summarise(domain, found, len(matched))
    )


def _attribute_step(domain: Domain, key: str, value: str, hide: Callable[[str], str]) -> Step:
    subjects = domain.subjects
    entry = _show(key, value, hide=hide if key in domain.hidden_keys else None)
    if subjects is None or key != subjects.tier:
        return Step(entry, "attribute", "", "it names a slot, and is taken out before matching.")
    trust = "believed" if subjects.trusts_tier_entry else "not trusted, so it does not count"
    return Step(entry, "attribute", "", f"it says a tier, {trust}; it is taken out.")


def _matched_step(part: Part, hide: Callable[[str], str]) -> Step:
    node = part.node
    entry = _show(part.key, part.value, hide=hide if part.is_secret else None)
    label = part.key if _spells_secret(part) else node.label
    rule = "" if _spells_secret(part) else node.rule
    if part.matched_by is MatchedBy.EXACT:
        reason = f"the joined name is that of the rule `{label}`"
    elif part.matched_by is MatchedBy.WILDCARD:
        reason = f"`{label}` is the first pattern in the file that fits; no exact name does"
        if node.is_shared:
            reason += "; all values that fit share one counter"
    else:
        reason = f"no rule has this value, and `{label}` takes any"
    return Step(entry, part.matched_by.value, rule, reason + ".")


def _spells_secret(part: Part) -> bool:
    """Whether the node is not marked, and its joined name holds the value of a secret key."""
    is_exact = part.matched_by is MatchedBy.EXACT
    return part.is_secret and is_exact and not part.node.is_sensitive


def _stopped_step(
    domain: Domain, parts: Sequence[Part], entry: tuple[str, str], hide: Callable[[str], str]
) -> Step:
    key, value = entry
    node = parts[-1].node if parts else domain.root
    is_secret = key in domain.hidden_keys
    shown = _show(key, value, hide=hide if is_secret else None)
    return Step(shown, "none", "", _offer(node, key if is_secret else f"{key}_{value}"))


def _offer(node: Node, wanted: str) -> str:
    """Return which names this level has, and the one nearest to what was wanted."""
    if not node.exact:
        return "the rules end above this entry: a longer descriptor than any rule has no limit."
    labels = [child.label for child in node.exact.values()]
    shown = ", ".join(f"`{label}`" for label in labels[:NAMES_SHOWN])
    rest = len(labels) - NAMES_SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    near = get_close_matches(
        wanted[:CHARACTERS_SHOWN], labels[:NAMES_COMPARED], 1, SUGGESTION_CUTOFF
    )
    hint = f"; the nearest is `{near[0]}`" if near else ""
    return f"no rule fits here; there are {shown}{more}{hint}."


def _show(key: str, value: str, *, hide: Callable[[str], str] | None) -> str:
    entry = f"{key}={hide(value) if hide else value}"
    return entry if len(entry) <= CHARACTERS_SHOWN else entry[: CHARACTERS_SHOWN - 3] + "..."


def _describe_limits(found: Match) -> str:
    return "; ".join(_describe_limit(limit) for limit in found.limits)


def _describe_limit(limit: Limit) -> str:
    name = f"{limit.name}: " if limit.name else ""
    special = modes(limit)
    return name + describe_amount(limit) + (f" ({', '.join(special)})" if special else "")


def _summarise(domain: Domain, found: Match, length: int) -> str:
    unmatched = "refused (`on_no_match: deny`)" if domain.on_no_match is NoMatch.DENY else "OK"
    if found.limit is not None and len(found.limits) > 1:
        return f"The {len(found.limits)} limits of `{found.limit.rule}` are decided together."
    if found.limit is not None:
        return f"The limit of `{found.limit.rule}` applies: {describe_amount(found.limit)}."
    if found.is_whitelisted:
        return "The rule has no limit: the descriptor is whitelisted, so the answer is OK."
    if not length:
        return f"A descriptor without entries matches nothing, so the answer is {unmatched}."
    if found.node is not None:
        return (
            "The descriptor ends above the rules: this level has no limit of its own, "
            f"so the answer is {unmatched}."
        )
    stopped = len(found.parts) + 1
    return f"Matching stopped at entry {stopped} of {length}, so the answer is {unmatched}."
