"""Header blocks of requests, compressed as Envoy compresses them.

Without tracing the first block fills the dynamic table and all that follow are equal. With a
`traceparent` every block adds one entry to the table, so the references to all other entries move
by one, and now and then one of those falls out and is sent anew. That repeats after some calls,
because every traceparent is equally long: the pattern is computed once and filled with values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from random import Random

from hpack.hpack import encode_integer
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable

Header = tuple[bytes, bytes]

TRACEPARENT = b"traceparent"
TRACEPARENT_BYTES = 55
_ENTRY_OVERHEAD = 32
_STATIC = HeaderTable.STATIC_TABLE
_FIRST_DYNAMIC = len(_STATIC) + 1
_INDEXED, _INSERTED, _PLAIN, _SIZE_UPDATE = 0x80, 0x40, 0x00, 0x20
DEFAULT_TABLE_BYTES = 4096
# Different values; far more than any table or cache of a server keeps before one comes again.
VALUES = 2**16
# More than the sequences of names that a server remembers.
VARIANT_NAMES = 1_000


@dataclass(frozen=True, slots=True)
class Step:
    """One block: bytes before and after the traceparent's value, if it has one."""

    before: bytes
    after: bytes = b""
    has_trace: bool = False


class Blocks:
    """The header blocks of one connection, one after the other.

    `constant` is the block of every further call, once there is one.
    """

    def __init__(
        self, headers: Sequence[Header], *, table_bytes: int, seed: str, variants: int = 0
    ) -> None:
        """Encode `headers` for a peer that allows `table_bytes` of dynamic table.

        A TRACEPARENT among them has another value in each block. With `variants` so many different
        fields, which no table keeps, are added in turn, one to each block.
        """
        self._lead, self._cycle = _steps(tuple(headers), min(table_bytes, DEFAULT_TABLE_BYTES))
        self._at = 0
        random = Random(seed)
        self._values = islice(cycle(_values()), random.randrange(VALUES), None)
        self._variants = variants
        self._variant = random.randrange(variants) if variants else 0

    def next(self) -> bytes:
        """Return the block of the next call."""
        at, lead = self._at, len(self._lead)
        self._at += 1
        step = self._lead[at] if at < lead else self._cycle[(at - lead) % len(self._cycle)]
        block = step.before + next(self._values) + step.after if step.has_trace else step.before
        return block + self._next_variant() if self._variants else block

    @property
    def constant(self) -> bytes | None:
        """Return the block that all further calls have, if there is one."""
        if self._at < len(self._lead) or len(self._cycle) > 1 or self._cycle[0].has_trace:
            return None
        return None if self._variants else self._cycle[0].before

    def _next_variant(self) -> bytes:
        """Return a field that is not kept; names come again sooner than values do."""
        self._variant = (self._variant + 1) % self._variants
        name = b"x-variant-%d" % (self._variant % VARIANT_NAMES)
        return bytes((_PLAIN,)) + _text(name) + _text(b"%d" % self._variant)


def request_headers(path: str, *, is_tls: bool, is_traced: bool = False) -> list[Header]:
    """Return what Envoy 1.40 sends with a call of `path`, in its order."""
    trace = [(TRACEPARENT, b""), (b"tracestate", b"")] if is_traced else []
    return [
        (b":method", b"POST"),
        (b":path", path.encode()),
        (b":authority", b"ratelimitd"),
        (b":scheme", b"https" if is_tls else b"http"),
        (b"te", b"trailers"),
        (b"grpc-timeout", b"10000m"),
        (b"content-type", b"application/grpc"),
        *trace,
        (b"x-envoy-internal", b"true"),
        (b"x-forwarded-for", b"192.0.2.2"),
        (b"x-envoy-expected-rq-timeout-ms", b"10000"),
    ]


@cache
def _values() -> list[bytes]:
    """Return values of a traceparent, each Huffman-coded behind its length."""
    random = Random(1)
    texts = (
        b"00-%032x-%016x-01" % (random.getrandbits(128), random.getrandbits(64))
        for _ in range(VALUES)
    )
    return [_text(text) for text in texts]


@cache
def _steps(headers: tuple[Header, ...], table_bytes: int) -> tuple[list[Step], list[Step]]:
    """Return the blocks before the pattern repeats, and those that repeat."""
    table: list[Header] = []
    steps: list[Step] = []
    # Only the first block tells the peer how much table we use, so it is no part of a pattern.
    seen: dict[tuple[bool, tuple[Header, ...]], int] = {}
    while (state := (not steps, tuple(table))) not in seen:
        seen[state] = len(steps)
        steps.append(_encode(headers, table, table_bytes, is_first=not steps))
    return steps[: seen[state]], steps[seen[state] :]


def _encode(
    headers: Sequence[Header], table: list[Header], table_bytes: int, *, is_first: bool
) -> Step:
    """Encode one block and change `table`, newest first, as the peer will."""
    parts = bytearray()
    if is_first and table_bytes < DEFAULT_TABLE_BYTES:
        parts += _integer(table_bytes, 5, _SIZE_UPDATE)
    before = None
    for header in headers:
        name, value = header
        is_trace = name == TRACEPARENT
        if not is_trace and (index := _find(header, table)):
            parts += _integer(index, 7, _INDEXED)
            continue
        # A path is different for each call of most clients, so encoders do not keep it.
        is_kept = name != b":path"
        index = _find_name(name, table)
        parts += _integer(index, 6, _INSERTED) if is_kept else _integer(index, 4, _PLAIN)
        if not index:
            parts += _text(name)
        if is_trace:
            before, parts = bytes(parts), bytearray()
        else:
            parts += _text(value)
        if is_kept:
            _insert(header, table, table_bytes)
    if before is None:
        return Step(bytes(parts))
    return Step(before, bytes(parts), has_trace=True)


def _find(header: Header, table: list[Header]) -> int:
    if header in _STATIC:
        return _STATIC.index(header) + 1
    return table.index(header) + _FIRST_DYNAMIC if header in table else 0


def _find_name(name: bytes, table: list[Header]) -> int:
    for index, (known, _) in enumerate([*_STATIC, *table], start=1):
        if known == name:
            return index
    return 0


def _insert(header: Header, table: list[Header], table_bytes: int) -> None:
    table.insert(0, header)
    while sum(map(_entry_bytes, table)) > table_bytes:
        table.pop()


def _entry_bytes(header: Header) -> int:
    name, value = header
    length = TRACEPARENT_BYTES if name == TRACEPARENT else len(value)
    return len(name) + length + _ENTRY_OVERHEAD


def _integer(value: int, prefix_bits: int, pattern: int) -> bytes:
    encoded = encode_integer(value, prefix_bits)
    encoded[0] |= pattern
    return bytes(encoded)


def _text(value: bytes) -> bytes:
    """Return a string literal, Huffman-coded where that is shorter."""
    coded: bytes = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(value)
    if len(coded) < len(value):
        return _integer(len(coded), 7, 0x80) + coded
    return _integer(len(value), 7, 0x00) + value
