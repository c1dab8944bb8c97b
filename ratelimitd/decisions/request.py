"""A rate-limit request as the decisions see it: no wire format, bounds already checked."""

from typing import NamedTuple

from ratelimitd.policy.model import Unit


class Override(NamedTuple):
    """Number and unit that this request asks for instead of the configured ones."""

    requests_per_unit: int
    unit: Unit


class Descriptor(NamedTuple):
    """Entries in order, and the cost if this descriptor names its own; 0 asks without spending."""

    entries: tuple[tuple[str, str], ...]
    override: Override | None = None
    hits_addend: int | None = None
    is_negative_hits: bool = False


class Request(NamedTuple):
    """One ShouldRateLimit call; `hits_addend` is as sent, so 0 means 1."""

    domain: str
    descriptors: tuple[Descriptor, ...]
    hits_addend: int = 0
