"""Header blocks of the load, read back by the hpack library."""

import pytest
from hpack import Decoder

from bench.load.blocks import TRACEPARENT, Blocks, request_headers

HEADERS = request_headers("/service/Method", is_tls=False)
# Some rounds of the dynamic table: it holds about forty traceparents.
CALLS = 300


def decoded(block: bytes, decoder: Decoder) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in decoder.decode(block, raw=True)]


def new_blocks(*, traced: bool, table_bytes: int = 4096, seed: str = "test") -> Blocks:
    return Blocks(HEADERS, traced=traced, table_bytes=table_bytes, seed=seed)


def small_decoder(table_bytes: int) -> Decoder:
    decoder = Decoder()
    decoder.max_allowed_table_size = table_bytes
    return decoder


@pytest.mark.parametrize("table_bytes", [0, 60, 200, 1024, 4096, 65_536])
@pytest.mark.parametrize("traced", [False, True])
def test_blocks_read_back_as_the_headers(traced: bool, table_bytes: int) -> None:
    # Given
    blocks = new_blocks(traced=traced, table_bytes=table_bytes)
    decoder = small_decoder(table_bytes)

    # When
    read = [decoded(blocks.next(), decoder) for _ in range(CALLS)]

    # Then
    plain = [[header for header in headers if header[0] != TRACEPARENT] for headers in read]
    assert plain == [HEADERS] * CALLS


def test_blocks_without_tracing_are_equal_after_the_first() -> None:
    blocks = new_blocks(traced=False)
    first, *rest = (blocks.next() for _ in range(20))
    assert len(set(rest)) == 1
    assert len(rest[0]) < len(first)


def test_traced_blocks_are_never_equal_and_change_the_table() -> None:
    # Given
    blocks, decoder = new_blocks(traced=True), Decoder()
    seen, newest = set(), None

    # When
    for _ in range(CALLS):
        block = blocks.next()
        values = [value for name, value in decoded(block, decoder) if name == TRACEPARENT]

        # Then
        (value,) = values
        version, trace, span, flags = value.split(b"-")
        assert (version, len(trace), len(span), flags) == (b"00", 32, 16, b"01")
        assert decoder.header_table.dynamic_entries[0][0] == TRACEPARENT
        assert decoder.header_table.dynamic_entries[0] is not newest
        newest = decoder.header_table.dynamic_entries[0]
        seen.add(value)
    assert len(seen) == CALLS


def test_traced_blocks_send_again_what_fell_out_of_the_table() -> None:
    blocks = new_blocks(traced=True)
    lengths = [len(blocks.next()) for _ in range(CALLS)]
    assert max(lengths[50:]) > min(lengths[50:]) + 5


def test_blocks_of_two_seeds_have_other_values() -> None:
    one, other = new_blocks(traced=True), new_blocks(traced=True, seed="other")
    assert one.next() != other.next()
