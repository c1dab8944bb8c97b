from itertools import pairwise
from random import Random

import hpack
import pytest
from hpack.table import HeaderTable
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.transport.h2 import huffman
from ratelimitd.transport.h2.hpack import (
    Decoder,
    HeaderListTooLarge,
    HpackError,
    _decode_repeated,
    encode_static,
)
from ratelimitd.transport.h2.hpack_static import STATIC_TABLE

_NAMES = st.sampled_from(
    [b":path", b":method", b"te", b"traceparent", b"x-a", b"cookie", b"content-type", b"x" * 60]
)
_VALUES = st.one_of(
    st.sampled_from([b"", b"POST", b"trailers", b"/a/b", b"application/grpc"]),
    st.binary(max_size=40),
    st.binary(min_size=100, max_size=300),
)
_LISTS = st.lists(st.tuples(_NAMES, _VALUES), max_size=12)


def _decode(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    names, values = decoder.decode(block)
    return list(zip(names, values, strict=True))


def test_hpack_static_table_is_that_of_the_library() -> None:
    assert STATIC_TABLE == HeaderTable.STATIC_TABLE


# RFC 7541, C.3 and C.4: the same three requests on one connection, without and with Huffman.
_REQUESTS = [
    [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", b"www.example.com"),
    ],
    [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", b"www.example.com"),
        (b"cache-control", b"no-cache"),
    ],
    [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ],
]


@pytest.mark.parametrize(
    "blocks",
    [
        pytest.param(
            [
                "828684410f7777772e6578616d706c652e636f6d",
                "828684be58086e6f2d6361636865",
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
            ],
            id="C.3",
        ),
        pytest.param(
            [
                "828684418cf1e3c2e5f23a6ba0ab90f4ff",
                "828684be5886a8eb10649cbf",
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            ],
            id="C.4",
        ),
    ],
)
def test_hpack_knows_the_requests_of_appendix_c(blocks: list[str]) -> None:
    decoder = Decoder()

    decoded = [_decode(decoder, bytes.fromhex(block)) for block in blocks]

    assert decoded == _REQUESTS
    assert decoder.table_size == 164


@pytest.mark.parametrize(
    ("block", "field", "is_inserted"),
    [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", b"custom-key", True),
        ("040c2f73616d706c652f70617468", b":path", False),
        ("100870617373776f726406736563726574", b"password", False),
        ("82", b":method", False),
    ],
)
def test_hpack_knows_the_literals_of_appendix_c(
    block: str, field: bytes, is_inserted: bool
) -> None:
    decoder = Decoder()

    names, _ = decoder.decode(bytes.fromhex(block))

    assert names == (field,)
    assert decoder.changed is is_inserted


def test_hpack_evicts_as_the_responses_of_appendix_c() -> None:
    decoder = Decoder(max_table_size=256)

    for block in (
        (
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff"
            "6e919d29ad171863c78f0b97c8e9ae82ae43d3"
        ),
        "4883640effc1c0bf",
        (
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335"
            "dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
        ),
    ):
        fields = _decode(decoder, bytes.fromhex(block))

    assert fields[-1] == (
        b"set-cookie",
        b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    )
    assert decoder.table_size == 215


@given(st.lists(st.tuples(_LISTS, st.none() | st.integers(0, 4096), st.booleans()), max_size=12))
def test_hpack_decodes_what_the_library_encodes(
    steps: list[tuple[list[tuple[bytes, bytes]], int | None, bool]],
) -> None:
    encoder, decoder, oracle = hpack.Encoder(), Decoder(), hpack.Decoder()

    for fields, size, is_coded in steps:
        if size is not None:
            encoder.header_table_size = size
        block = encoder.encode(fields, huffman=is_coded)
        before = decoder.table_size

        assert _decode(decoder, block) == fields
        assert [tuple(each) for each in oracle.decode(block, raw=True)] == fields
        assert decoder.table_size == oracle.header_table._current_size  # noqa: SLF001
        assert decoder.changed or decoder.table_size == before


@given(seed=st.integers(0, 2**63), size=st.sampled_from([256, 1024, 4096]))
def test_hpack_knows_fields_whose_indices_move(seed: int, size: int) -> None:
    # Given a peer that sends the same fields again and again, with new ones between them.
    rng = Random(seed)
    encoder, decoder = hpack.Encoder(), Decoder()
    encoder.header_table_size = size
    lasting = [(b"x-%d" % number, b"v" * rng.randrange(20)) for number in range(8)]
    start, end = sorted(rng.sample(range(9), 2))
    for number in range(300):
        if rng.random() < 0.05:
            start, end = sorted(rng.sample(range(9), 2))
        new = [(b"n", b"%d" % number)] * (rng.random() < 0.8)
        fields = [(b":method", b"POST"), *lasting[start:end], *new, *lasting[end:]]

        assert _decode(decoder, encoder.encode(fields)) == fields


def test_hpack_refuses_an_entry_that_is_no_more() -> None:
    # Given two entries, of which one is pushed out.
    encoder, decoder = hpack.Encoder(), Decoder()
    decoder.decode(encoder.encode([(b"x-a", b"1"), (b"x-b", b"2")]))
    assert _decode(decoder, b"\xbf\xbe") == [(b"x-a", b"1"), (b"x-b", b"2")]
    decoder.decode(encoder.encode([(b"x-c", b"c" * 4_000)]))
    # When somebody asks for both again, of which the older one is gone.
    with pytest.raises(HpackError):
        decoder.decode(b"\xc0\xbf")


@given(st.lists(st.binary(max_size=40), max_size=6), _LISTS)
def test_hpack_refuses_what_the_library_refuses(
    garbage: list[bytes], fields: list[tuple[bytes, bytes]]
) -> None:
    # Given both know some entries.
    encoder, decoder, oracle = hpack.Encoder(), Decoder(), hpack.Decoder()
    decoder.decode(first := encoder.encode(fields))
    oracle.decode(first, raw=True)

    for block in garbage:
        ours: object
        theirs: object
        try:
            ours = _decode(decoder, block)
        except HpackError:
            ours = None
        try:
            theirs = [tuple(each) for each in oracle.decode(block, raw=True)]
        except (hpack.HPACKError, IndexError):
            theirs = None

        # Strings of some GiB and padding with zeros are the library's tolerance, not ours.
        if ours is None:
            return
        assert ours == theirs


@given(_LISTS)
def test_hpack_constant_blocks_touch_no_table(fields: list[tuple[bytes, bytes]]) -> None:
    decoder = Decoder()

    assert _decode(decoder, encode_static(fields)) == fields
    assert not decoder.changed
    assert [tuple(e) for e in hpack.Decoder().decode(encode_static(fields), raw=True)] == fields


@pytest.mark.parametrize(
    "block",
    [
        pytest.param("80", id="index 0"),
        pytest.param("be", id="an index beyond the table"),
        pytest.param("ff", id="an integer without its end"),
        pytest.param("ffffffffffffffffff7f", id="an endless integer"),
        pytest.param("7e0161", id="a name beyond the table"),
        pytest.param("40", id="a literal without anything"),
        pytest.param("4005612d", id="a name without its end"),
        pytest.param("40016105", id="a value without its beginning"),
        pytest.param("4001618161", id="a value of bad Huffman"),
        pytest.param("8221", id="a size update after a field"),
        pytest.param("3fe23f", id="a size over the advertised"),
        pytest.param("407fffffffff0f", id="a length of gigabytes"),
    ],
)
def test_hpack_refuses_malformed_blocks(block: str) -> None:
    with pytest.raises(HpackError):
        Decoder().decode(bytes.fromhex(block))


def test_hpack_size_updates_empty_and_restore_the_table() -> None:
    # Given one entry
    decoder = Decoder()
    decoder.decode(bytes.fromhex("4001610162"))
    assert decoder.table_size == 34

    # When the size goes to zero and back in one block, as an encoder says it
    decoder.decode(bytes.fromhex("203fe11f"))

    # Then the entry is gone, and there is room again
    assert decoder.changed
    assert decoder.table_size == 0
    decoder.decode(bytes.fromhex("4001610162"))
    assert decoder.table_size == 34


def test_hpack_an_entry_larger_than_the_table_empties_it() -> None:
    decoder = Decoder(max_table_size=64)
    decoder.decode(bytes.fromhex("4001610162"))

    names, _ = decoder.decode(encode_as_inserted(b"x" * 100))

    assert names == (b"x" * 100,)
    assert decoder.table_size == 0


def encode_as_inserted(name: bytes) -> bytes:
    return b"\x40" + bytes((len(name),)) + name + b"\x00"


def test_hpack_a_bomb_is_refused_and_leaves_the_decoder_good() -> None:
    # Given an entry that fills the table
    decoder = Decoder(max_header_list_size=16384)
    decoder.decode(b"\x40\x01a" + b"\x7f" + b"\xa1\x1e" + b"v" * 4000)
    size = decoder.table_size

    # When a small block refers to it a thousand times
    with pytest.raises(HeaderListTooLarge):
        decoder.decode(b"\xbe" * 1000)

    # Then only that block is refused
    assert decoder.table_size == size
    assert decoder.decode(b"\xbe")[0] == (b"a",)


def test_hpack_a_block_cut_anywhere_is_refused_or_shorter() -> None:
    block = hpack.Encoder().encode(
        [(b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c"), (b"te", b"trailers")]
    )

    lengths = []
    for end in range(len(block) + 1):
        try:
            lengths.append(len(Decoder().decode(block[:end])[0]))
        except HpackError:
            lengths.append(-1)

    assert lengths[0] == 0
    assert lengths[-1] == 2
    assert lengths.count(1) == 1
    assert all(b == -1 for a, b in pairwise(lengths[:-2]) if a == -1 and b < 1)


@pytest.mark.parametrize(
    ("first", "remembered"),
    [
        pytest.param(b"\x0f\x08", 1, id="without indexing"),
        pytest.param(b"\x1f\x08", 0, id="never indexed"),
        pytest.param(b"\x57", 0, id="inserted"),
    ],
)
def test_only_literals_that_may_be_kept_enter_the_memory_of_all_connections(
    first: bytes, remembered: int
) -> None:
    # Given a token as a peer with Huffman's code sends it
    token = b"Bearer abcdefghijklmnopqrstuvwxyz"
    coded = huffman.encode(token)
    _decode_repeated.cache_clear()

    fields = _decode(Decoder(), first + bytes((0x80 | len(coded),)) + coded)

    assert fields == [(b"authorization", token)]
    assert _decode_repeated.cache_info().currsize == remembered
