import hpack.huffman
import pytest
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.transport.h2 import huffman
from ratelimitd.transport.h2.huffman import HuffmanError

_LIBRARY = hpack.huffman.HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


@pytest.mark.parametrize(
    ("text", "coded"),
    [
        (b"www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
        (b"no-cache", "a8eb10649cbf"),
        (b"custom-value", "25a849e95bb8e8b4bf"),
        (b"302", "6402"),
        (b"Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
        (b"https://www.example.com", "9d29ad171863c78f0b97c8e9ae82ae43d3"),
        (b"", ""),
    ],
)
def test_huffman_knows_the_examples_of_appendix_c(text: bytes, coded: str) -> None:
    assert huffman.encode(text).hex() == coded
    assert huffman.decode(bytes.fromhex(coded)) == text


@given(st.binary(max_size=200))
def test_huffman_encodes_as_the_library_and_decodes_its_own(text: bytes) -> None:
    coded = huffman.encode(text)

    assert coded == _LIBRARY.encode(text)
    assert huffman.decode(coded) == text


def test_huffman_every_symbol_survives() -> None:
    text = bytes(range(256)) * 3

    assert huffman.decode(huffman.encode(text)) == text


@given(st.binary(max_size=60))
def test_huffman_accepts_exactly_what_an_encoder_can_produce(coded: bytes) -> None:
    try:
        text = huffman.decode(coded)
    except HuffmanError:
        return

    assert huffman.encode(text) == coded


@pytest.mark.parametrize(
    "coded",
    [
        pytest.param("ff", id="a byte of padding"),
        pytest.param("1fff", id="a symbol and eleven bits of padding"),
        pytest.param("18", id="zeros for padding"),
        pytest.param("fffffffc", id="EOS"),
        pytest.param("1ffffffffe", id="EOS after a symbol"),
        pytest.param("fe", id="a code without its end"),
    ],
)
def test_huffman_refuses_bad_endings(coded: str) -> None:
    with pytest.raises(HuffmanError):
        huffman.decode(bytes.fromhex(coded))
