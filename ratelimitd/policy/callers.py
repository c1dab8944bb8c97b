"""Who may call what, by the names in a client's certificate; compiled from `callers.yaml`.

Rules:
- What is not in the file may not be done. Names are compared whole: nothing is a pattern.
- A certificate with several names of the file may do what any of them may.
- A name has a kind, so that the DNS name `a:b` of an odd certificate is not the URI `a:b`.
- A caller is looked up once for a connection; a call costs a look-up of its method and one of its
  domain.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from ratelimitd.policy.model import Position
from ratelimitd.policy.report import quote

CALLERS_FILE: Final = "callers.yaml"
"""Its name, at the top of the directory of policy files, where it is no policy."""

DNS, URI, EMAIL = "DNS", "URI", "email"
"""The kinds of names that are compared, as Python's ssl module calls them."""

MAX_NAMES_TOLD: Final = 3
"""Of a certificate, in a refusal; most have one."""

MAX_NAME_CHARACTERS: Final = 200
"""Of such a name: a SPIFFE ID says the most at its end."""

# Texts, or None for all there are.
Names: TypeAlias = frozenset[str] | None
# The kind of a name in a certificate, and its text.
San: TypeAlias = tuple[str, str]

_NONE: Names = frozenset()


@dataclass(frozen=True, slots=True)
class Entry:
    """What the names of one entry of the file may do."""

    domains: Names
    methods: Names
    position: Position


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is behind one connection: `name` is told, `methods` are the domains by full name.

    `others` are the domains of methods that have no place of their own there.
    """

    name: str
    is_known: bool
    methods: Mapping[str, Names]
    others: Names

    def domains(self, method: str) -> Names:
        """Return the domains that may be named to `method`; no domain means not to call it."""
        return self.methods.get(method, self.others)


@dataclass(frozen=True, slots=True)
class Callers:
    """The entries of the file, and which of them each name has."""

    entries: Sequence[Entry]
    sans: Mapping[San, int]

    def caller(self, sans: Iterable[San]) -> Caller:
        """Return who has a certificate with these names, known here or not."""
        told = [san for san in sans if san[0] in {DNS, URI, EMAIL}]
        known = [san for san in told if to_key(*san) in self.sans]
        numbers = {self.sans[to_key(*san)] for san in known}
        methods, others = _sum(self.entries[number] for number in sorted(numbers))
        return Caller(describe(known or told), bool(known), methods, others)


def to_key(kind: str, text: str) -> San:
    """Return a name as it is compared: the case of host names does not matter."""
    if kind == DNS:
        return kind, text.lower()
    if kind == EMAIL:
        mailbox, at, host = text.rpartition("@")
        return kind, f"{mailbox}{at}{host.lower()}"
    return kind, text


def describe(sans: Iterable[San]) -> str:
    """Return names for a message; nothing if there are none."""
    texts = list(dict.fromkeys(text for _, text in sans))
    more = len(texts) - MAX_NAMES_TOLD
    told = ", ".join(quote(text, MAX_NAME_CHARACTERS) for text in texts[:MAX_NAMES_TOLD])
    return f"{told} and {more} more" if more > 0 else told


def _sum(entries: Iterable[Entry]) -> tuple[Mapping[str, Names], Names]:
    """Return what may be done by any of `entries`: the domains of each method, and of others."""
    methods: dict[str, Names] = {}
    others = _NONE
    for entry in entries:
        if entry.methods is None:
            others = _union(others, entry.domains)
        else:
            for method in entry.methods:
                methods[method] = _union(methods.get(method, _NONE), entry.domains)
    return {method: _union(domains, others) for method, domains in methods.items()}, others


def _union(one: Names, other: Names) -> Names:
    if one is None or other is None:
        return None
    # The set itself where nothing is added: it is shared by all connections.
    return other if not one else one if other <= one else one | other
