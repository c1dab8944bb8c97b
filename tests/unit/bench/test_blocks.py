"""Header blocks of the load, read back by the hpack library."""

from pathlib import Path

import pytest
from hpack import Decoder
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from bench.load import frames
from bench.load.blocks import TRACEPARENT, Blocks, request_headers

PATH = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
CAPTURES = Path(__file__).parents[2] / "transport" / "h2" / "data"
# Some rounds of the dynamic table: it holds about forty traceparents.
CALLS = 300


def decoded(block: bytes, decoder: Decoder) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in decoder.decode(block, raw=True)]


def new_blocks(*, traced: bool, table_bytes: int = 4096, seed: str = "test") -> Blocks:
    return Blocks(headers(traced=traced), table_bytes=table_bytes, seed=seed)


def headers(*, traced: bool) -> list[tuple[bytes, bytes]]:
    return request_headers(PATH, is_tls=False, is_traced=traced)


def captured_blocks(name: str) -> list[bytes]:
    data = (CAPTURES / name).read_bytes()[len(frames.PREFACE) :]
    found = []
    while len(data) >= frames.HEAD_BYTES:
        word, flags, _ = frames.HEAD.unpack_from(data)
        stop = frames.HEAD_BYTES + (word >> 8)
        if word & 0xFF == frames.HEADERS:
            found.append(frames.without_padding(data[frames.HEAD_BYTES : stop], flags))
        data = data[stop:]
    return found


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
    blank = [[(n, b"" if n == TRACEPARENT else v) for n, v in block] for block in read]
    assert blank == [headers(traced=traced)] * CALLS


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
        assert decoder.header_table.dynamic_entries[0] is not newest
        newest = decoder.header_table.dynamic_entries[0]
        seen.add(value)
    assert len(seen) == CALLS


def test_traced_blocks_send_again_what_fell_out_of_the_table() -> None:
    blocks = new_blocks(traced=True)
    lengths = [len(blocks.next()) for _ in range(CALLS)]
    assert max(lengths[50:]) > min(lengths[50:]) + 5


@pytest.mark.parametrize("traced", [False, True])
def test_blocks_have_as_many_variants_as_asked_for_and_the_table_none(traced: bool) -> None:
    # Given
    blocks = Blocks(headers(traced=traced), table_bytes=4096, seed="test", variants=20)
    decoder = Decoder()

    # When
    last = [decoded(blocks.next(), decoder)[-1] for _ in range(60)]

    # Then each comes once before one comes again, and with tracing or not no block is for ever
    assert len(set(last[:20])) == 20
    assert last[20:40] == last[:20]
    assert blocks.constant is None
    assert not any(
        name.startswith(b"x-variant") for name, _ in decoder.header_table.dynamic_entries
    )


def test_blocks_of_two_seeds_have_other_values() -> None:
    one, other = new_blocks(traced=True), new_blocks(traced=True, seed="other")
    assert one.next() != other.next()


def test_blocks_are_byte_for_byte_those_of_a_real_envoy() -> None:
    captured = captured_blocks("envoy-1.40-plain.bin")
    blocks = new_blocks(traced=False)
    assert len(captured) == 60
    assert [blocks.next() for _ in captured] == captured


def test_traced_blocks_differ_from_a_real_envoy_in_the_value_alone() -> None:
    # Given
    captured = captured_blocks("envoy-1.40-traced.bin")
    ours, library, blocks = Decoder(), Decoder(), new_blocks(traced=True)

    # Then: the same entries fall out of the table and come back at the same calls.
    assert len(captured) == 120
    for theirs in captured:
        block = blocks.next()
        values = []
        for data, decoder in ((block, ours), (theirs, library)):
            (value,) = (value for name, value in decoded(data, decoder) if name == TRACEPARENT)
            values.append(HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(value))
        mine, real = values
        assert block.replace(bytes((0x80 | len(mine),)) + mine, b"value") == theirs.replace(
            bytes((0x80 | len(real),)) + real, b"value"
        )
