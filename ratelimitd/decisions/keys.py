"""Counter keys: where in the store a limit counts; every key's layout is decided here.

    rl:1:{pp}f60:api|api_key#5f3c...|path=/export
    |    |   ||  |   |              `- entry with its value
    |    |   ||  |   `- entry with a secret value: 32 hex digits of its HMAC-SHA-256
    |    |   ||  `- domain, after `prefix!` where one is set
    |    |   |`- window in seconds; behind it `t` for a tier's counter, `g` for everybody's
    |    |   `- algorithm; `k` with unit, day and zone for calendar periods
    |    `- partition: one of 64 hash tags, spread evenly over a Cluster's slots
    `- version of the stored shape

Rules:
- Different counters never share a key: separators are escaped inside values, a shared pattern
  (`~`) never equals a value (`=`), and algorithm and window are part of the key.
- A key holds no amount and no time: a changed number goes on with the old count.
- A counter of a tier or of everybody has the rule's patterns (`~`) in place of values; a tier's
  ends with the tier (`@`). What counts values beyond `max_new_keys_per_second` ends with `!`.
- A key longer than MAX_BODY_BYTES is replaced by its BLAKE2b-128.
- The partition is that of a hash of the key, or of the text that a domain partitions by.
"""

import hashlib
import hmac
import re
from binascii import crc_hqx
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple
from zlib import crc32

from ratelimitd.policy.model import Algorithm, Calendar, Scope

KEY_PREFIX = b"rl:1:"

# One tag in each of 64 equal ranges of a Cluster's 16,384 slots, found by trying two-letter tags.
_TAG_LETTERS = (
    "10186h032921324s0j0b1a0s2y2q2h2d11196i022820334r0k0c0z0r2x2p2i2a"
    "126s09014h2330380h0d0y0q3a2s2j2b136r08004i2231390i0a0x0p2z2r2k2c"
)
PARTITION_TAGS = tuple(_TAG_LETTERS[at : at + 2] for at in range(0, len(_TAG_LETTERS), 2))
_OPENINGS = tuple(b"%b{%b}" % (KEY_PREFIX, tag.encode()) for tag in PARTITION_TAGS)
SLOTS = 16_384

# Longer bodies are hashed: a caller chooses values, and must not choose the store's memory.
MAX_BODY_BYTES = 96

_ALGORITHM_LETTER = {
    Algorithm.FIXED_WINDOW: "f",
    Algorithm.SLIDING_WINDOW: "s",
    Algorithm.GCRA: "g",
    Algorithm.CONCURRENCY: "c",
}
_CALENDAR_LETTER = "k"
_SCOPE_LETTER = {Scope.SUBJECT: "", Scope.TIER: "t", Scope.GLOBAL: "g"}
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@,;&?+$*()\[\]<>'\"^-]*")
_HASH_LETTER = "h"


class PartKind:
    """What stands after an entry's key; plain texts, because keys are made for each request."""

    VALUE: Final = "="
    PATTERN: Final = "~"
    SECRET: Final = "#"  # noqa: S105 - a separator
    TIER: Final = "@"
    OVERFLOW: Final = "!"
    BIRTHS: Final = "^"


class KeyPart(NamedTuple):
    """One entry as the counter sees it; a SECRET part carries the fingerprint, not the value."""

    key: str
    kind: str
    text: str


class CounterKind(NamedTuple):
    """What a counter counts by, apart from whose it is."""

    prefix: str
    domain: str
    algorithm: Algorithm
    window_us: int
    scope: Scope = Scope.SUBJECT
    calendar: Calendar | None = None


class KeyForm:
    """What the keys of one limit have in common: all but the texts of their parts."""

    __slots__ = ("_fixed_length", "_head", "_kinds", "_names", "_pieces")

    def __init__(self, kind: CounterKind, *, names: Sequence[str], kinds: Sequence[str]) -> None:
        """Make keys of parts with these `names` and `kinds`."""
        self._head = _head(kind)
        self._names = tuple(names)
        self._kinds = tuple(kinds)
        # What stands before each text.
        self._pieces = [f"|{_escape(name)}{kind}" for name, kind in zip(names, kinds, strict=True)]
        if self._pieces:
            self._pieces[0] = self._head + self._pieces[0]
        # Escaping makes nothing shorter, and takes its time for long texts.
        self._fixed_length = len(self._head) + sum(map(len, (*self._names, *self._kinds)))

    def fill(self, texts: Sequence[str]) -> bytes:
        """Return the key whose parts have these texts, in the partition of its own hash."""
        return _tagged(self.body(texts))

    def body(self, texts: Sequence[str]) -> bytes:
        """Return what stands behind the partition."""
        if not self._pieces:
            return self._head.encode()
        if len(texts) == 1:
            (text,) = texts
            if len(text) + self._fixed_length <= MAX_BODY_BYTES:
                body = (self._pieces[0] + _escape(text)).encode()
                if len(body) <= MAX_BODY_BYTES:
                    return body
        elif sum(map(len, texts)) + self._fixed_length <= MAX_BODY_BYTES:
            parts = [piece + _escape(text) for piece, text in zip(self._pieces, texts, strict=True)]
            body = "".join(parts).encode()
            if len(body) <= MAX_BODY_BYTES:
                return body
        return f"{_HASH_LETTER}:{self._digest(texts)}".encode()

    def _digest(self, texts: Sequence[str]) -> str:
        """Return the BLAKE2b-128 of a body; each text stands behind its length."""
        whole = [b"%d:" % len(self._head), self._head.encode()]
        for part in zip(self._names, self._kinds, texts, strict=True):
            for text in part:
                encoded = text.encode("utf-8", "surrogatepass")
                whole += (b"%d:" % len(encoded), encoded)
        return hashlib.blake2b(b"".join(whole), digest_size=16).hexdigest()


def counter_key(
    *, prefix: str, domain: str, algorithm: Algorithm, window_us: int, parts: Iterable[KeyPart]
) -> bytes:
    """Return the key of the counter that these parts name."""
    return to_key(CounterKind(prefix, domain, algorithm, window_us), tuple(parts))


def to_key(kind: CounterKind, parts: Sequence[KeyPart], partition: int | None = None) -> bytes:
    """Return a counter's key; it lies in `partition`, or where a hash of itself puts it."""
    form = KeyForm(kind, names=[part.key for part in parts], kinds=[part.kind for part in parts])
    body = form.body([part.text for part in parts])
    return _tagged(body) if partition is None else in_partition(body, partition)


def partition_by(domain: str, text: str) -> int:
    """Return the partition of whatever shares `text`: a value, or its fingerprint."""
    whole = b"%d:" % len(domain) + f"{domain}{text}".encode("utf-8", "surrogatepass")
    return crc32(whole) % len(_OPENINGS)


def partition_number(key: bytes) -> int:
    """Return the partition in which a counter's key lies."""
    return PARTITION_TAGS.index(partition_of(key).decode())


def in_partition(body: bytes, partition: int) -> bytes:
    """Return the key with this body in this partition."""
    return _OPENINGS[partition] + body


def partition_of(key: bytes) -> bytes:
    """Return the hash tag of a counter key."""
    start = len(KEY_PREFIX) + 1
    return key[start : start + 2]


def slot_of(tag: bytes) -> int:
    """Return the Cluster slot of a hash tag: CRC-16/XMODEM modulo 16,384 (Redis Cluster spec)."""
    return crc_hqx(tag, 0) % SLOTS


def fingerprint(secret: bytes, value: str) -> str:
    """Return 32 hex digits that stand for a secret value: HMAC-SHA-256 cut to 128 bits."""
    return hmac.digest(secret, value.encode("utf-8", "surrogatepass"), "sha256")[:16].hex()


def escaped(text: str) -> str:
    """Return a text as it stands inside a key: what separates parts is percent-encoded."""
    return _escape(text)


@lru_cache(maxsize=4096)
def _head(kind: CounterKind) -> str:
    """Return what the keys of one window of one domain begin with; the policy bounds how many."""
    prefix, domain = _escape(kind.prefix), _escape(kind.domain)
    owner = f"{prefix}!{domain}" if prefix else domain
    scope = _SCOPE_LETTER[kind.scope]
    calendar = kind.calendar
    if calendar is not None:
        unit = calendar.unit.name.lower()
        zone = _escape(calendar.timezone).replace(":", "%3a")
        return (
            f"{_CALENDAR_LETTER}{unit}{calendar.anchor_day}@{zone}{scope and '.' + scope}:{owner}"
        )
    window_s = kind.window_us // 1_000_000
    return f"{_ALGORITHM_LETTER[kind.algorithm]}{window_s}{scope}:{owner}"


def _tagged(body: bytes) -> bytes:
    """Return a body behind the version and the partition that it falls into."""
    return _OPENINGS[crc32(body) % len(_OPENINGS)] + body


def _escape(text: str) -> str:
    """Percent-encode whatever is not plain, separators and `%` included."""
    # Most values are letters and digits, and the second look costs more.
    if (text.isascii() and text.isalnum()) or _PLAIN.fullmatch(text):
        return text
    return "".join(
        char if _PLAIN.fullmatch(char) else "".join(f"%{byte:02x}" for byte in char.encode())
        for char in text
    )
