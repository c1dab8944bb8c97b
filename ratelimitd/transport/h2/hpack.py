# ruff: noqa: PLR2004 - the prefixes of RFC 7541, 6, stand where they are tested
"""HPACK (RFC 7541): decoding header blocks, and encoding constant ones.

Rules:
- A decoder belongs to one connection. `changed` says whether the last block inserted into or
  resized the dynamic table: a block that did means something else next time, any other block
  means the same until the table changes.
- Every error is HpackError, after which the table is not to be trusted: the connection ends
  with COMPRESSION_ERROR.
- A list over the bound is HeaderListTooLarge, raised after the whole block was decoded: the table
  is right, and only this request is refused. A block of n bytes never makes more than n
  references, whatever the sizes of what they refer to.
- An integer has at most MAX_CONTINUATION bytes after its prefix; nothing that a peer may send is
  larger.
- What is encoded here never touches the peer's dynamic table, so it may be a constant.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from ratelimitd.transport.h2 import huffman
from ratelimitd.transport.h2.hpack_static import STATIC_TABLE

# What an entry costs beside its bytes (4.1).
ENTRY_OVERHEAD: Final = 32
# 2 ** 28 is more than any length or index that passes the other bounds.
MAX_CONTINUATION: Final = 4

_STATIC_LENGTH: Final = len(STATIC_TABLE)
# The first byte of an indexed field of the dynamic table, and what leads from it to the entry.
_FIRST_DYNAMIC: Final = 0x80 + _STATIC_LENGTH + 1
_NEWEST: Final = _FIRST_DYNAMIC - 1
_Field = tuple[bytes, bytes, int]
_STATIC: Final[tuple[_Field, ...]] = (
    (b"", b"", 0),  # Indices count from 1.
    *((name, value, len(name) + len(value) + ENTRY_OVERHEAD) for name, value in STATIC_TABLE),
)


class HpackError(Exception):
    """A header block that nothing can be decoded from; COMPRESSION_ERROR."""


class HeaderListTooLarge(Exception):  # noqa: N818 - reads as what is the case
    """The decoded fields are over the bound; the decoder is still good."""


class Decoder:
    """The decoding side of a connection's header compression."""

    __slots__ = ("_advertised", "_entries", "_limit", "_max_list_size", "_size", "changed")

    def __init__(self, max_table_size: int = 4096, max_header_list_size: int = 16384) -> None:
        """Keep at most `max_table_size` bytes, the value that the peer was told or the default."""
        # Newest last, so that index 62 is entry -1.
        self._entries: list[_Field] = []
        self._size = 0
        self._limit = self._advertised = max_table_size
        self._max_list_size = max_header_list_size
        self.changed = False

    @property
    def table_size(self) -> int:
        """Return the size of the dynamic table, as 4.1 counts it."""
        return self._size

    def decode(  # noqa: C901, PLR0912, PLR0915 - one loop: a call for each field costs too much
        self, block: bytes
    ) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Return the names and the values of the fields of `block`, in order.

        Raises HpackError and HeaderListTooLarge.
        """
        self.changed = False
        entries = self._entries
        fields: list[_Field] = []
        append = fields.append
        position = 0
        end = len(block)
        try:
            while position < end:
                first = block[position]
                position += 1
                if first >= 0x80:  # an indexed field
                    if first < _FIRST_DYNAMIC:
                        if first == 0x80:
                            raise HpackError("index 0")
                        append(_STATIC[first & 0x7F])
                    elif first < 0xFF:
                        append(entries[_NEWEST - first])
                    else:
                        index, position = _integer(block, position, 0x7F)
                        append(entries[_STATIC_LENGTH - index])
                    continue
                if first >= 0x40:  # a literal that is inserted
                    index = first & 0x3F
                    if index == 0x3F:
                        index, position = _integer(block, position, 0x3F)
                elif first >= 0x20:  # a new size of the table
                    if fields:
                        raise HpackError("a table size update after a field")
                    position = self._resize(block, position, first & 0x1F)
                    continue
                else:  # a literal that is not inserted, or never
                    index = first & 0x0F
                    if index == 0x0F:
                        index, position = _integer(block, position, 0x0F)
                if index > _STATIC_LENGTH:
                    name = entries[_STATIC_LENGTH - index][0]
                elif index:
                    name = _STATIC[index][0]
                else:
                    name, position = _string(block, position)
                if first < 0x10:
                    value, position = _repeated_string(block, position)
                else:  # inserted, or one that must never be kept (7.1.3)
                    value, position = _string(block, position)
                size = len(name) + len(value) + ENTRY_OVERHEAD
                field = (name, value, size)
                append(field)
                if first >= 0x40:
                    self.changed = True
                    entries.append(field)
                    size += self._size
                    while size > self._limit:
                        size -= entries[0][2]
                        del entries[0]
                    self._size = size
        except IndexError:
            raise HpackError("the block ends early, or names an entry that is not there") from None
        except huffman.HuffmanError as error:
            raise HpackError(str(error)) from error
        if not fields:
            return (), ()
        names, values, costs = zip(*fields, strict=True)
        if sum(costs) > self._max_list_size:
            raise HeaderListTooLarge(f"{sum(costs)} bytes of header fields")
        return names, values

    def _evict(self) -> None:
        entries = self._entries
        count = 0
        while self._size > self._limit:
            self._size -= entries[count][2]
            count += 1
        del entries[:count]

    def _resize(self, block: bytes, position: int, prefix: int) -> int:
        size = prefix
        if prefix == 0x1F:
            size, position = _integer(block, position, 0x1F)
        if size > self._advertised:
            raise HpackError(f"a table of {size} bytes, at most {self._advertised} are allowed")
        self.changed = True
        self._limit = size
        self._evict()
        return position


def encode_static(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a block of `fields` that is right at any time, on any connection."""
    out = bytearray()
    for name, value in fields:
        if (name, value) in STATIC_TABLE:
            out += _to_integer(STATIC_TABLE.index((name, value)) + 1, 0x7F, 0x80)
            continue
        index = next((i for i, (known, _) in enumerate(STATIC_TABLE, 1) if known == name), 0)
        out += _to_integer(index, 0x0F, 0x00)
        if not index:
            out += _to_string(name)
        out += _to_string(value)
    return bytes(out)


def _integer(block: bytes, position: int, prefix: int) -> tuple[int, int]:
    """Return an integer whose prefix was all ones, and where it ends."""
    value = prefix
    for shift in range(0, 7 * MAX_CONTINUATION, 7):
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise HpackError("an integer over 2 ** 28")


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    first = block[position]
    position += 1
    length = first & 0x7F
    if length == 0x7F:
        length, position = _integer(block, position, 0x7F)
    end = position + length
    if end > len(block):
        raise HpackError("a string ends beyond its block")
    if first & 0x80:
        return huffman.decode(block[position:end]), end
    return block[position:end], end


def _repeated_string(block: bytes, position: int) -> tuple[bytes, int]:
    """Do as `_string`, for what is sent in full each time: Envoy's :path is."""
    first = block[position]
    if first <= 0x80 or first == 0xFF:
        return _string(block, position)
    position += 1
    end = position + (first & 0x7F)
    if end > len(block):
        raise HpackError("a string ends beyond its block")
    return _decode_repeated(block[position:end]), end


# A peer that sends something else each time costs a look-up more. An entry is below 400 bytes.
_decode_repeated: Final = lru_cache(maxsize=256)(huffman.decode)


def _to_integer(value: int, prefix: int, pattern: int) -> bytes:
    if value < prefix:
        return bytes((pattern | value,))
    out = bytearray((pattern | prefix,))
    value -= prefix
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _to_string(text: bytes) -> bytes:
    coded = huffman.encode(text)
    if len(coded) < len(text):
        return _to_integer(len(coded), 0x7F, 0x80) + coded
    return _to_integer(len(text), 0x7F, 0x00) + text
