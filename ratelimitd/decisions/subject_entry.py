"""The names under which the registry keeps subjects and blocked entries.

    api|user=alice           the entry user=alice of the domain api
    api|api_key#5f3c...      a secret value: 32 hex digits of its HMAC-SHA-256
    api|user~9e10...         a long value: 32 hex digits of its BLAKE2b
    api|~0a44...             the same of key and value, where the key is long

Rules:
- Different entries never share a name: separators are escaped inside texts, as in counter keys.
- A secret value is in no name; who has the store's hash secret makes the same name again.
- A key is secret for the whole domain as soon as one rule calls it sensitive.
"""

import hashlib
import re
from typing import Final, NamedTuple

from ratelimitd.decisions.keys import PartKind, escaped, fingerprint

MAX_VALUE_BYTES: Final = 96
SHOWN_DIGITS: Final = 8
# Stands for every key that is too long to be in a name.
LONG_KEY: Final = ""
_BORDER: Final = "|"
_LONG: Final = "~"
_NAME = re.compile(r"([^|]*)\|([^=#~]*)([=#~])(.*)", re.DOTALL)
_ESCAPE = re.compile(r"(?:%[0-9a-f]{2})+")


class Name(NamedTuple):
    """A name, taken apart; `text` is a value, or the digits that stand for one."""

    domain: str
    key: str
    kind: str
    text: str


class EntryForm:
    """What the names of all entries with one key in one domain have in common."""

    __slots__ = ("_head", "_is_secret", "_kind", "_name")

    def __init__(self, domain: str, key: str, *, is_secret: bool) -> None:
        """Name entries of `key` in `domain`."""
        self._head = f"{escaped(domain)}{_BORDER}"
        self._name = escaped(key)
        self._is_secret = is_secret
        self._kind = str(PartKind.SECRET if is_secret else PartKind.VALUE)

    def fill(self, value: str, hash_secret: bytes) -> str:
        """Return the name of the entry with this value."""
        text = fingerprint(hash_secret, value) if self._is_secret else escaped(value)
        if len(self._name) > MAX_VALUE_BYTES:
            return f"{self._head}{_LONG}{_digest(self._name, self._kind, text)}"
        if len(text) > MAX_VALUE_BYTES:
            return f"{self._head}{self._name}{_LONG}{_digest(text)}"
        return f"{self._head}{self._name}{self._kind}{text}"


def entry_field(domain: str, key: str, value: str, *, is_secret: bool, hash_secret: bytes) -> str:
    """Return the name of an entry in the registry."""
    return EntryForm(domain, key, is_secret=is_secret).fill(value, hash_secret)


def names_of(domain: str) -> tuple[str, str]:
    """Return what the names of a domain begin with, and the first text beyond all of them."""
    head = f"{escaped(domain)}{_BORDER}"
    return head, head[:-1] + chr(ord(_BORDER) + 1)


def take_apart(field: str) -> Name | None:
    """Return the parts of a name, or None of a text that is none."""
    found = _NAME.fullmatch(field)
    if found is None:
        return None
    domain, key, kind, text = found.groups()
    return Name(_unescaped(domain), _unescaped(key), kind, _unescaped(text))


def key_of(field: str) -> str:
    """Return the key of an entry by its name; LONG_KEY for one that is long."""
    name = take_apart(field)
    return name.key if name is not None else LONG_KEY


def shown(field: str) -> str:
    """Return an entry by its name as people may see it: of a digest the first digits only."""
    name = take_apart(field)
    if name is None:
        return "(unreadable)"
    if name.kind == PartKind.VALUE:
        return f"{name.key}={name.text}"
    return f"{name.key}={name.kind}{name.text[:SHOWN_DIGITS]}"


def _digest(*texts: str) -> str:
    whole = b"".join(b"%d:%b" % (len(text), text.encode()) for text in texts)
    return hashlib.blake2b(whole, digest_size=16).hexdigest()


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(
        lambda found: bytes.fromhex(found[0].replace("%", "")).decode(errors="replace"), text
    )
