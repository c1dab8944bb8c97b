"""A compiled policy with everything else that would take a walk over its tree.

Metrics, pages and the end of a policy need all of it at once. A walk over tens of thousands of
rules takes longer than a request may wait, so each is made where the policy is compiled.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from ratelimitd.policy.callers import Callers
from ratelimitd.policy.model import Policy

RELEASED_PER_STEP = 500
"""Parts of an old policy that go between two turns of the loop: about a quarter millisecond."""


@dataclass(frozen=True, slots=True)
class RuleNames:
    """What metrics call the limits: `keys` are (domain, metric key), `rules` their full names.

    `count` is the number of limits; two of them may share a name.
    """

    keys: AbstractSet[tuple[str, str]]
    rules: AbstractSet[str]
    count: int


@dataclass(frozen=True, slots=True)
class Listing:
    """The policy in force to read: pieces of the JSON document and of /rlconfig."""

    document: tuple[bytes, ...]
    rlconfig: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A policy ready to be put in force; `warnings` are the first, `more_warnings` the others.

    `callers` is None where everybody may call everything.
    `parts` holds every node, children first, and every key of `names`, so that an old policy can
    be let go in steps.
    """

    policy: Policy
    callers: Callers | None
    names: RuleNames
    listing: Listing
    warnings: tuple[str, ...]
    more_warnings: int
    parts: list[object]


def release(parts: list[object]) -> Iterator[None]:
    """Let go of the parts of a policy that nobody uses any more, some at each step.

    Parents go first: what is below them is still in the list, so each step frees its own alone.
    """
    while parts:
        del parts[-RELEASED_PER_STEP:]
        yield
