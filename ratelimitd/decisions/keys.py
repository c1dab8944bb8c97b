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
_TAGS = tuple(tag.encode() for tag in PARTITION_TAGS)
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


def counter_key(
    *, prefix: str, domain: str, algorithm: Algorithm, window_us: int, parts: Iterable[KeyPart]
) -> bytes:
    """Return the key of the counter that these parts name."""
    head = _head(prefix, domain, algorithm, window_us)
    body = None
    texts: list[str] = []
    for part in parts:
        texts += part
    if len(head) + sum(map(len, texts)) <= MAX_BODY_BYTES:
        # Escaping makes nothing shorter, and takes its time for long values.
        body = (head + _readable(texts)).encode()
    if body is None or len(body) > MAX_BODY_BYTES:
        body = f"{_HASH_LETTER}:{_digest(head, texts)}".encode()
    return b"%b{%b}%b" % (KEY_PREFIX, _TAGS[crc32(body) % len(_TAGS)], body)


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


@lru_cache(maxsize=4096)
def _head(prefix: str, domain: str, algorithm: Algorithm, window_us: int) -> str:
    """Return what the keys of one window of one domain begin with; the policy bounds how many."""
    scope = f"{_escape(prefix)}!{_escape(domain)}" if prefix else _escape(domain)
    return f"{_ALGORITHM_LETTER[algorithm]}{window_us // 1_000_000}:{scope}"


def _readable(texts: Sequence[str]) -> str:
    """Return the entries as people can read them; `texts` are key, kind, text of each."""
    names, kinds, values = texts[::3], texts[1::3], texts[2::3]
    if not _PLAIN.fullmatch("".join((*names, *values))):
        names, values = [_escape(name) for name in names], [_escape(value) for value in values]
    return "".join(
        [f"|{name}{kind}{value}" for name, kind, value in zip(names, kinds, values, strict=True)]
    )


def _digest(head: str, texts: Sequence[str]) -> str:
    """Return the BLAKE2b-128 of a body; each text stands behind its length."""
    whole = [b"%d:" % len(head), head.encode()]
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        whole += (b"%d:" % len(encoded), encoded)
    return hashlib.blake2b(b"".join(whole), digest_size=16).hexdigest()


def _escape(text: str) -> str:
    """Percent-encode whatever is not plain, separators and `%` included."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(
        char if _PLAIN.fullmatch(char) else "".join(f"%{byte:02x}" for byte in char.encode())
        for char in text
    )
