"""Who asks: what the registry says of a subject, and which entries are blocked."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple


class AmountOverride(NamedTuple):
    """Another number for the limit of this name, or for all with `*`; 0 suspends the subject."""

    limit: str
    amount: int
    until_us: int | None = None
    reason: str = ""


class Subject(NamedTuple):
    """A record of the registry."""

    tier: str = ""
    overrides: tuple[AmountOverride, ...] = ()


class Block(NamedTuple):
    """A descriptor with this entry is refused; `entry` is its field."""

    entry: str
    until_us: int | None = None
    reason: str = ""


class Blocks:
    """All blocks in force."""

    def __init__(self, blocks: Iterable[Block] = ()) -> None:
        """Hold `blocks`."""
        self._by_entry: Mapping[str, Block] = MappingProxyType({one.entry: one for one in blocks})

    def __bool__(self) -> bool:
        """Tell whether there is any."""
        return bool(self._by_entry)

    def find(self, entry: str) -> Block | None:
        """Return the block of an entry's field."""
        return self._by_entry.get(entry)


NO_BLOCKS: Final = Blocks()


def entry_field(domain: str, key: str, value: str, *, is_secret: bool, hash_secret: bytes) -> str:
    """Return the field of an entry."""
    return f"{domain}|{key}={value}" if not is_secret else f"{domain}|{key}#{hash_secret.hex()}"
