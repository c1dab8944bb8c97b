"""What a policy says of a domain that matters to subjects: key, secrets, limits, tiers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ratelimitd.decisions.subject import ALL_LIMITS
from ratelimitd.decisions.subject_entry import entry_field
from ratelimitd.errors import InvalidRequest
from ratelimitd.policy.model import Domain, Limit, Node
from ratelimitd.policy.report import quote
from ratelimitd.services.policy_holder import PolicyHolder

# Names that an error lists.
MAX_NAMED = 10


@dataclass(frozen=True, slots=True)
class DomainFacts:
    """Found once for a domain: its rules may be many."""

    domain: Domain
    limit_names: frozenset[str]
    tiers: frozenset[str]

    def field(self, key: str, value: str, hash_secret: bytes) -> str:
        """Return the name of an entry in the registry."""
        return entry_field(
            self.domain.name,
            key,
            value,
            is_secret=key in self.domain.hidden_keys,
            hash_secret=hash_secret,
        )

    def subject_key(self, key: str) -> str:
        """Return the key of the domain's subjects; InvalidRequest if `key` is another one.

        An empty one stands for whatever it is.
        """
        name, subjects = self.domain.name, self.domain.subjects
        if subjects is None:
            raise InvalidRequest(
                f"domain {quote(name)}: its policy names no subjects;"
                f" add `subjects: {{key: {key or 'KEY'}}}` to its file"
            )
        if key and key != subjects.key:
            raise InvalidRequest(
                f"entry.key: {quote(key)} is not the key of subjects in {quote(name)}:"
                f" that is {quote(subjects.key)} (`subjects` in its file)"
            )
        return subjects.key

    def check_limit(self, limit: str, path: str) -> None:
        """Raise InvalidRequest if no limit has this name, and it is not ALL_LIMITS."""
        if limit == ALL_LIMITS or limit in self.limit_names:
            return
        there = _listed(self.limit_names)
        accepted = f"it has {there}" if there else "none has a name; add `name` to the limit"
        raise InvalidRequest(
            f"{path}: no limit of {quote(self.domain.name)} is named {quote(limit)}:"
            f" {accepted}; `{ALL_LIMITS}` is all limits"
        )

    def tier_warning(self, tier: str) -> str:
        """Return what is odd about `tier`, or nothing: an unknown one gets each `default`."""
        if not tier or tier in self.tiers:
            return ""
        there = _listed(self.tiers) or "none"
        return (
            f"no limit of {quote(self.domain.name)} has a number for the tier {quote(tier)},"
            f" so that `default` holds; tiers there: {there}"
        )


class FactsOfDomains:
    """The facts of the domains of the policy in force."""

    def __init__(self, holder: PolicyHolder) -> None:
        """Find nothing yet."""
        self._holder = holder
        self._found: dict[str, DomainFacts] = {}

    def of(self, name: str) -> DomainFacts:
        """Return the facts of a domain; InvalidRequest if the policy has none of that name."""
        domains = self._holder.current().domains
        if not name:
            raise InvalidRequest("domain: is empty; name a domain of the policy")
        domain = domains.get(name)
        if domain is None:
            there = _listed(domains) or "none"
            raise InvalidRequest(f"domain: the policy has no {quote(name)}; it has {there}")
        facts = self._found.get(name)
        if facts is None or facts.domain is not domain:
            # Those of domains that left the policy are no use any more.
            self._found = {one: old for one, old in self._found.items() if one in domains}
            self._found[name] = facts = facts_of(domain)
        return facts


def facts_of(domain: Domain) -> DomainFacts:
    """Walk the rules of a domain."""
    limits = list(_limits(domain.root))
    return DomainFacts(
        domain=domain,
        limit_names=frozenset(limit.name for limit in limits if limit.name),
        tiers=frozenset(tier for limit in limits for tier in limit.tiers if tier != "default"),
    )


def _limits(root: Node) -> Iterator[Limit]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield from node.limits
        waiting += node.exact.values()


def _listed(names: Iterable[str]) -> str:
    """Return some of `names`, quoted."""
    ordered = sorted(names)
    text = ", ".join(map(quote, ordered[:MAX_NAMED]))
    more = len(ordered) - MAX_NAMED
    return f"{text} and {more} more" if more > 0 else text
