"""HPACK's Huffman code (RFC 7541, 5.2 and appendix B): decoding eight bits at a time, encoding.

Rules:
- The code is canonical: symbols in order of (length, symbol) get consecutive codes, so the table
  of lengths is the whole code.
- Decoding is an automaton over the inner nodes of the code tree. A row holds, for each next
  byte, the row to go on with and the symbols that were completed; it is filled when first
  needed, so the table grows with the strings that occur, to at most 256 x 256 steps (about
  7 MiB for a process, reached only by a peer that aims at it). Sixteen bits at a time is a third
  faster, but hex digits alone, as trace ids have, then need 66,000 steps.
- Padding is at most seven bits, all ones; EOS inside a string is an error.
"""

from typing import Any, Final

EOS: Final = 256

# The length in bits of each symbol's code, of 0 to 255 and EOS: A is 5 bits, Z is 30.
_LENGTHS: Final = (
    "ISXXXXXXXTZXXZXXXXXXXXZXXX"
    "XXXXXXBFFHIBDGFFDGDBBBAAAB"
    "BBBBBBCDKBHFIBCCCCCCCCCCCC"
    "CCCCCCCCCCDCDIOIJBKABABABB"
    "BACCBBBABCBAABCCCCCKGJIXPR"
    "PPRRRSRSSSSSTSTTRSTSSSSQRS"
    "RSSTRQPRRSSQSRRTQRSSQQRQSR"
    "SSPRRRSRRSVVPORSRUVVVWWVTU"
    "OQVWWVWTQQVVXWWWPTPQRQQSRR"
    "UUTTVSVWVVWWWWWXWWWWWVZ"
)
_MIN_LENGTH: Final = 5


class HuffmanError(Exception):
    """The string is not one that the code can produce."""


def decode(data: bytes) -> bytes:
    """Return the string that `data` encodes. Raises HuffmanError."""
    while True:
        row = _ROOT
        byte = 0
        out: list[bytes] = []
        append = out.append
        try:
            for byte in data:
                row, symbols = row[byte]
                append(symbols)
        except TypeError:
            # None, a step that nobody took yet. Each is filled once in a process.
            _fill(row, byte)
            continue
        if not row[_IS_END]:
            raise HuffmanError("the padding is not the beginning of EOS, or longer than 7 bits")
        return b"".join(out)


def encode(text: bytes) -> bytes:
    """Return `text` encoded, padded with ones."""
    bits = 0
    length = 0
    for byte in text:
        code, width = _CODES[byte]
        bits = bits << width | code
        length += width
    padding = -length % 8
    return (bits << padding | (1 << padding) - 1).to_bytes((length + padding) // 8, "big")


# A row has 256 steps, then whether a string may end here, then its node. Its items have no common
# type, and a check for each byte would cost as much as the step.
_Row = list[Any]
_IS_END: Final = 256
_NODE: Final = 257


class _Node:
    """An inner node of the code tree; a child is a node or a symbol."""

    __slots__ = ("children", "row")

    def __init__(self, *, is_end: bool) -> None:
        self.children: list[_Node | int | None] = [None, None]
        self.row: _Row = [*(None,) * 256, is_end, self]


def _codes() -> tuple[tuple[int, int], ...]:
    codes = [(0, 0)] * 257
    code = previous = 0
    for symbol in sorted(range(257), key=lambda each: (_LENGTHS[each], each)):
        width = ord(_LENGTHS[symbol]) - ord("A") + _MIN_LENGTH
        code <<= width - previous
        previous = width
        codes[symbol] = (code, width)
        code += 1
    return tuple(codes)


def _tree() -> _Node:
    root = _Node(is_end=True)
    for symbol, (code, width) in enumerate(_CODES):
        node = root
        for depth in range(1, width):
            bit = code >> width - depth & 1
            child = node.children[bit]
            if child is None:
                # Padding is the first 1 to 7 bits of EOS, which are all ones.
                is_end = depth <= 7 and code >> width - depth == (1 << depth) - 1  # noqa: PLR2004
                child = node.children[bit] = _Node(is_end=is_end)
            assert isinstance(child, _Node), "a code is no prefix of another"
            node = child
        node.children[code & 1] = symbol
    return root


def _fill(row: _Row, byte: int) -> None:
    node: _Node = row[_NODE]
    symbols = bytearray()
    for shift in range(7, -1, -1):
        child = node.children[byte >> shift & 1]
        if child == EOS:
            raise HuffmanError("EOS stands inside the string")
        if isinstance(child, _Node):
            node = child
        else:
            assert child is not None, "the code is complete"
            symbols.append(child)
            node = _TREE
    row[byte] = (node.row, bytes(symbols))


_CODES: Final = _codes()
_TREE: Final = _tree()
_ROOT: Final = _TREE.row
