"""What is known of a subject, its tier and amounts of its own; and entries that are blocked.

Rules:
- Pure values: `now_us` is microseconds since the Unix epoch, by whichever clock the caller has.
- An expired part counts as if it had never been said: a tier that ended leaves `default`.
- An amount of 0 for all limits suspends: no amount for a single limit stands against it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ratelimitd.decisions.subject_entry import key_of

ALL_LIMITS: Final = "*"
# What the store's integers and ours hold exactly.
MAX_AMOUNT: Final = 2**53 - 1
MAX_OVERRIDES: Final = 32
MAX_TIER_CHARACTERS: Final = 64
MAX_NAME_CHARACTERS: Final = 128
# For people who ask why; a ticket's number and a sentence fit.
MAX_REASON_CHARACTERS: Final = 256


@dataclass(frozen=True, slots=True)
class AmountOverride:
    """An amount that holds for one subject: `limit` is a limit's name, or ALL_LIMITS."""

    limit: str
    amount: int
    until_us: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """One record of the registry; `tier` is empty where nothing was said.

    `version` grows with each write to the registry; 0 is a record that was never stored.
    """

    tier: str = ""
    tier_until_us: int | None = None
    overrides: tuple[AmountOverride, ...] = ()
    reason: str = ""
    version: int = 0

    @property
    def next_change_us(self) -> int | None:
        """When the next part expires, or None if none does."""
        times = [one.until_us for one in self.overrides if one.until_us is not None]
        if self.tier_until_us is not None:
            times.append(self.tier_until_us)
        return min(times, default=None)

    @property
    def is_suspended(self) -> bool:
        """Whether nothing is admitted at all."""
        return any(one.limit == ALL_LIMITS and one.amount == 0 for one in self.overrides)

    def amount_for(self, limit: str) -> int | None:
        """Return the subject's own amount for the limit of this name, or None without one.

        A suspension wins, then the amount for that limit, then the one for all limits.
        """
        found = None
        for one in self.overrides:
            if one.limit == ALL_LIMITS:
                if one.amount == 0:
                    return 0
                found = one.amount if found is None else found
            elif one.limit == limit and limit:
                found = one.amount
        return found


def at(subject: Subject, now_us: int) -> Subject:
    """Return `subject` without what has expired; the same object if nothing has."""
    next_us = subject.next_change_us
    if next_us is None or now_us < next_us:
        return subject
    kept = tuple([one for one in subject.overrides if _is_valid(one.until_us, now_us)])
    if _is_valid(subject.tier_until_us, now_us):
        return replace(subject, overrides=kept)
    return replace(subject, tier="", tier_until_us=None, overrides=kept)


@dataclass(frozen=True, slots=True)
class Block:
    """An entry that is refused whatever limits say; `entry` is its form in the registry."""

    domain: str
    entry: str
    until_us: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Blocks:
    """All blocks in force, immutable; `keys` are, for each domain, the keys of blocked entries.

    A domain or key that is not in `keys` has no blocked entry, so nothing need be looked up.
    The name of an entry does not tell a key of more than MAX_VALUE_BYTES: that is the empty one.
    """

    keys: Mapping[str, frozenset[str]] = field(default_factory=dict)
    _by_entry: Mapping[str, Block] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return how many entries are blocked."""
        return len(self._by_entry)

    @property
    def all(self) -> Iterable[Block]:
        """All of them, in no order."""
        return self._by_entry.values()

    @property
    def next_change_us(self) -> int | None:
        """When the next one expires, or None if none does."""
        times = (one.until_us for one in self._by_entry.values() if one.until_us is not None)
        return min(times, default=None)

    def find(self, domain: str, entries: Iterable[str]) -> Block | None:
        """Return the block of the first of `entries` that is blocked; they are as stored."""
        if domain in self.keys:
            for entry in entries:
                found = self._by_entry.get(entry)
                if found is not None:
                    return found
        return None

    def at(self, now_us: int) -> "Blocks":
        """Return these without the expired ones; the same object if none is."""
        next_us = self.next_change_us
        if next_us is None or now_us < next_us:
            return self
        return blocks_of(one for one in self.all if _is_valid(one.until_us, now_us))


EMPTY: Final = Blocks()


def blocks_of(blocks: Iterable[Block]) -> Blocks:
    """Return `blocks` as one value; of two for one entry the last holds."""
    by_entry = {one.entry: one for one in blocks}
    keys: dict[str, set[str]] = {}
    for one in by_entry.values():
        keys.setdefault(one.domain, set()).add(key_of(one.entry))
    return Blocks({domain: frozenset(own) for domain, own in keys.items()}, by_entry)


def _is_valid(until_us: int | None, now_us: int) -> bool:
    return until_us is None or now_us < until_us
