"""Counter keys: where in the store a limit counts; every key's layout is decided here.

    rl:1:{pp}f60:api|api_key#5f3c...|path=/export
    |    |   ||  |   |              `- entry with its value
    |    |   ||  |   `- entry with a secret value: 32 hex digits of its HMAC-SHA-256
    |    |   ||  `- domain, after `prefix!` where one is set
    |    |   |`- window in seconds
    |    |   `- algorithm
    |    `- partition: one of 64 hash tags, spread evenly over a Cluster's slots
    `- version of the stored shape

Rules:
- Different counters never share a key: separators are escaped inside values, a shared pattern
  (`~`) never equals a value (`=`), and algorithm and window are part of the key.
- A key holds no amount and no time: a changed number goes on with the old count.
- A key longer than MAX_BODY_BYTES is replaced by its BLAKE2b-128.
"""

import hashlib
import hmac
import re
from binascii import crc_hqx
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple
from zlib import crc32

from ratelimitd.policy.model import Algorithm

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

_ALGORITHM_LETTER = {Algorithm.FIXED_WINDOW: "f"}
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@,;&?+$*()\[\]<>'\"^-]*")
_HASH_LETTER = "h"


class PartKind:
    """What stands after an entry's key; plain texts, because keys are made for each request."""

    VALUE: Final = "="
    PATTERN: Final = "~"
    SECRET: Final = "#"  # noqa: S105 - a separator


class KeyPart(NamedTuple):
    """One entry as the counter sees it; a SECRET part carries the fingerprint, not the value."""

    key: str
    kind: str
    text: str


class KeyForm:
    """What the keys of one limit have in common: all but the texts of their parts."""

    __slots__ = ("_fixed_length", "_head", "_kinds", "_names", "_pieces")

    def __init__(
        self,
        *,
        prefix: str,
        domain: str,
        algorithm: Algorithm,
        window_us: int,
        names: Sequence[str],
        kinds: Sequence[str],
    ) -> None:
        """Make keys of parts with these `names` and `kinds`."""
        self._head = _head(prefix, domain, algorithm, window_us)
        self._names = tuple(names)
        self._kinds = tuple(kinds)
        # What stands before each text.
        self._pieces = [f"|{_escape(name)}{kind}" for name, kind in zip(names, kinds, strict=True)]
        if self._pieces:
            self._pieces[0] = self._head + self._pieces[0]
        # Escaping makes nothing shorter, and takes its time for long texts.
        self._fixed_length = len(self._head) + sum(map(len, (*self._names, *self._kinds)))

    def fill(self, texts: Sequence[str]) -> bytes:
        """Return the key whose parts have these texts."""
        if not self._pieces:
            return _tagged(self._head.encode())
        if len(texts) == 1:
            (text,) = texts
            if len(text) + self._fixed_length <= MAX_BODY_BYTES:
                body = (self._pieces[0] + _escape(text)).encode()
                if len(body) <= MAX_BODY_BYTES:
                    return _tagged(body)
        elif sum(map(len, texts)) + self._fixed_length <= MAX_BODY_BYTES:
            parts = [piece + _escape(text) for piece, text in zip(self._pieces, texts, strict=True)]
            body = "".join(parts).encode()
            if len(body) <= MAX_BODY_BYTES:
                return _tagged(body)
        return _tagged(f"{_HASH_LETTER}:{self._digest(texts)}".encode())

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
    parts = tuple(parts)
    form = KeyForm(
        prefix=prefix,
        domain=domain,
        algorithm=algorithm,
        window_us=window_us,
        names=[part.key for part in parts],
        kinds=[part.kind for part in parts],
    )
    return form.fill([part.text for part in parts])


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
def _head(prefix: str, domain: str, algorithm: Algorithm, window_us: int) -> str:
    """Return what the keys of one window of one domain begin with; the policy bounds how many."""
    scope = f"{_escape(prefix)}!{_escape(domain)}" if prefix else _escape(domain)
    return f"{_ALGORITHM_LETTER[algorithm]}{window_us // 1_000_000}:{scope}"


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
