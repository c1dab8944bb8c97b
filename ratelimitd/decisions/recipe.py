"""How the key of a check is made of a descriptor's entries, once it is known which rule they match.

Rules:
- Descriptors that take one path through a policy, the same keys, nodes and ways to reach them,
  have one limit and one recipe; only the texts of their values differ.
- The key is that of `make_plan`: both fill the same form.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ratelimitd.decisions.keys import KeyForm, KeyPart, PartKind, fingerprint
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.policy.match import MatchedBy, Part
from ratelimitd.policy.model import Limit


class Recipe(NamedTuple):
    """The form of a counter's key, and what fills it.

    `constants` has the text of each part that no value changes, None for the others; it is None
    itself where every text is the plain value.
    """

    form: KeyForm
    kinds: tuple[str, ...]
    constants: tuple[str | None, ...] | None
    hash_secret: bytes

    def key(self, entries: Sequence[tuple[str, str]]) -> bytes:
        """Return the key of a descriptor with `entries`."""
        if self.constants is None:
            return self.form.fill([value for _, value in entries])
        texts: list[str] = []
        for (_, value), kind, constant in zip(entries, self.kinds, self.constants, strict=True):
            if constant is not None:
                texts.append(constant)
            elif kind == PartKind.SECRET:
                texts.append(fingerprint(self.hash_secret, value))
            else:
                texts.append(value)
        return self.form.fill(texts)


def to_recipe(
    limit: Limit, parts: Sequence[Part], options: DecisionOptions, hash_secret: bytes
) -> Recipe:
    """Return the recipe of all descriptors whose entries match as `parts` do."""
    key_parts = [to_key_part(part, hash_secret) for part in parts]
    kinds = tuple(part.kind for part in key_parts)
    constants = tuple(
        key_part.text if is_constant(part) else None
        for part, key_part in zip(parts, key_parts, strict=True)
    )
    form = KeyForm(
        prefix=options.key_prefix,
        domain=limit.domain,
        algorithm=limit.algorithm,
        window_us=limit.window_us,
        names=[part.key for part in key_parts],
        kinds=kinds,
    )
    is_plain = all(kind == PartKind.VALUE for kind in kinds)
    return Recipe(form, kinds, None if is_plain else constants, hash_secret)


def is_constant(part: Part) -> bool:
    """Tell whether all values that match as `part` did share one counter."""
    return part.node.is_shared and part.matched_by is not MatchedBy.DEFAULT


def to_key_part(part: Part, hash_secret: bytes) -> KeyPart:
    """Return a matched entry as the counter sees it."""
    if part.node.is_shared:
        return KeyPart(part.key, PartKind.PATTERN, part.counter_value)
    if part.is_secret:
        return KeyPart(part.key, PartKind.SECRET, fingerprint(hash_secret, part.value))
    return KeyPart(part.key, PartKind.VALUE, part.value)
