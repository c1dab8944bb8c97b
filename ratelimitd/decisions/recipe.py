"""How the keys of a check are made of a descriptor's entries, once it is known which rule matches.

Rules:
- Descriptors that take one path through a policy, the same keys, nodes and ways to reach them,
  have the same limits and recipes; only the texts of their values differ.
- A counter of a tier or of everybody has nothing of the values: all that reach the rule share it.
- What a domain partitions by decides for the counters of subjects alone: one counter that many
  subjects share can lie in one partition only.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from ratelimitd.decisions.keys import (
    PARTITION_TAGS,
    CounterKind,
    KeyForm,
    KeyPart,
    PartKind,
    fingerprint,
    in_partition,
    partition_by,
    partition_number,
    to_key,
)
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.policy.match import MatchedBy, Part
from ratelimitd.policy.model import Limit, Scope

DEFAULT_TIER = "default"


class Partition(NamedTuple):
    """The entry whose value decides where counters lie; `at` is its place."""

    domain: str
    at: int
    is_secret: bool
    hash_secret: bytes

    def number(self, entries: Sequence[tuple[str, str]]) -> int:
        """Return the partition of a descriptor with `entries`."""
        text = entries[self.at][1]
        return partition_by(
            self.domain, fingerprint(self.hash_secret, text) if self.is_secret else text
        )


class Newcomers(NamedTuple):
    """The bodies of the keys that bound how many counters of a limit are new."""

    births: bytes
    overflow: bytes
    per_second: int
    follows_key: bool


class Recipe(NamedTuple):
    """The form of a counter's key, and what fills it.

    `constants` has the text of each part that no value changes, None for the others; it is None
    itself where every text is the plain value. `constant` is the key where values do not matter.
    """

    form: KeyForm
    kinds: tuple[str, ...]
    constants: tuple[str | None, ...] | None
    hash_secret: bytes
    partition: Partition | None = None
    newcomers: Newcomers | None = None
    constant: bytes | None = None

    def keys(self, entries: Sequence[tuple[str, str]]) -> tuple[bytes, ...]:
        """Return the key of the counter of a descriptor, then those for new ones."""
        key = self.key(entries)
        new = self.newcomers
        if new is None:
            return (key,)
        if new.follows_key:
            at = partition_number(key)
            return (key, in_partition(new.births, at), in_partition(new.overflow, at))
        return (key, _in_own_partition(new.births), _in_own_partition(new.overflow))

    def key(self, entries: Sequence[tuple[str, str]]) -> bytes:
        """Return the key of the counter of a descriptor with `entries`."""
        if self.constant is not None:
            return self.constant
        if self.constants is None:
            texts = [value for _, value in entries]
        else:
            texts = self._texts(entries, self.constants)
        if self.partition is None:
            return self.form.fill(texts)
        return in_partition(self.form.body(texts), self.partition.number(entries))

    def _texts(
        self, entries: Sequence[tuple[str, str]], constants: Sequence[str | None]
    ) -> list[str]:
        texts: list[str] = []
        for (_, value), kind, constant in zip(entries, self.kinds, constants, strict=True):
            if constant is not None:
                texts.append(constant)
            elif kind == PartKind.SECRET:
                texts.append(fingerprint(self.hash_secret, value))
            else:
                texts.append(value)
        return texts


class Place(NamedTuple):
    """What the keys of a domain's limits share: `partition_key` is an entry's key, or empty."""

    options: DecisionOptions
    hash_secret: bytes
    partition_key: str = ""


def to_recipe(limit: Limit, parts: Sequence[Part], place: Place, tier: str = "") -> Recipe:
    """Return the recipe of all descriptors whose entries match as `parts` do.

    `tier` is who asks; only a counter of a tier depends on it.
    """
    kind = _kind(limit, place.options)
    secret = place.hash_secret
    if limit.scope is not Scope.SUBJECT:
        shared = [to_rule_part(part, secret) for part in parts]
        if limit.scope is Scope.TIER:
            shared.append(KeyPart("", PartKind.TIER, tier_of(limit, tier)))
        form = KeyForm(kind, names=(), kinds=())
        return Recipe(form, (), (), secret, constant=to_key(kind, shared))
    key_parts = [to_key_part(part, secret) for part in parts]
    kinds = tuple(part.kind for part in key_parts)
    constants = tuple(
        key_part.text if is_constant(part) else None
        for part, key_part in zip(parts, key_parts, strict=True)
    )
    form = KeyForm(kind, names=[part.key for part in key_parts], kinds=kinds)
    is_plain = all(one == PartKind.VALUE for one in kinds)
    return Recipe(
        form,
        kinds,
        None if is_plain else constants,
        secret,
        _partition(limit, parts, place),
        _newcomers(limit, parts, place),
    )


def is_constant(part: Part) -> bool:
    """Tell whether all values that match as `part` did share one counter."""
    return part.node.is_shared and part.matched_by is not MatchedBy.DEFAULT


def to_key_part(part: Part, hash_secret: bytes) -> KeyPart:
    """Return a matched entry as the counter of a subject sees it."""
    if part.node.is_shared:
        return KeyPart(part.key, PartKind.PATTERN, part.counter_value)
    if part.is_secret:
        return KeyPart(part.key, PartKind.SECRET, fingerprint(hash_secret, part.value))
    return KeyPart(part.key, PartKind.VALUE, part.value)


def to_rule_part(part: Part, hash_secret: bytes) -> KeyPart:
    """Return a matched entry as a counter sees it that all values share: the rule's own text."""
    name = part.node.name
    if part.is_secret and part.matched_by is MatchedBy.EXACT:
        return KeyPart("", PartKind.SECRET, fingerprint(hash_secret, name))
    return KeyPart("", PartKind.PATTERN, name)


def slot_id(holder: str) -> bytes:
    """Return the 16 bytes that stand for the holder of a slot: BLAKE2b-128 of its name."""
    return hashlib.blake2b(holder.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def tier_of(limit: Limit, tier: str) -> str:
    """Return the tier that counts for a limit: one that it does not name is the default."""
    return tier if tier in limit.tiers else DEFAULT_TIER


def _kind(limit: Limit, options: DecisionOptions) -> CounterKind:
    return CounterKind(
        options.key_prefix,
        limit.domain,
        limit.algorithm,
        limit.window_us,
        limit.scope,
        limit.calendar,
    )


def _partition(limit: Limit, parts: Sequence[Part], place: Place) -> Partition | None:
    for at, part in enumerate(parts):
        if place.partition_key and part.key == place.partition_key:
            return Partition(limit.domain, at, part.is_secret, place.hash_secret)
    return None


def _newcomers(limit: Limit, parts: Sequence[Part], place: Place) -> Newcomers | None:
    if not limit.max_new_keys_per_second:
        return None
    shared = [to_rule_part(part, place.hash_secret) for part in parts]

    def body(kind: str) -> bytes:
        own = [*shared, KeyPart("", kind, limit.name)]
        form = KeyForm(
            _kind(limit, place.options),
            names=[part.key for part in own],
            kinds=[part.kind for part in own],
        )
        return form.body([part.text for part in own])

    # Where the keys of one call must share a partition, each has its part of what may be new.
    share = len(PARTITION_TAGS) if place.options.has_partitions else 1
    return Newcomers(
        body(PartKind.BIRTHS),
        body(PartKind.OVERFLOW),
        -(-limit.max_new_keys_per_second // share),
        place.options.has_partitions,
    )


def _in_own_partition(body: bytes) -> bytes:
    return in_partition(body, partition_by("", body.decode()))
