from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ratelimitd.transport.certificate import not_after_s
from tests.support.certificates import Authority, make_authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca"))


@given(
    moment=st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 31, 23, 59, 59)),  # noqa: DTZ001
    names=st.lists(st.sampled_from(["a", "b" * 60, "c.d"]), min_size=1, max_size=40),
)
@example(moment=datetime(2049, 12, 31, 23, 59, 59), names=["a"])  # noqa: DTZ001 - the last UTCTime
@example(moment=datetime(2050, 1, 1), names=["a"])  # noqa: DTZ001 - the first GeneralizedTime
def test_end_of_a_certificate_is_read(
    authority: Authority, moment: datetime, names: list[str]
) -> None:
    moment = moment.replace(microsecond=0)

    pair = authority.issue("leaf", tuple(names), not_after=moment)

    expected = int(moment.replace(tzinfo=UTC).timestamp())
    assert not_after_s(pair.certificate.read_bytes()) == expected


def test_first_certificate_of_a_chain_counts(authority: Authority) -> None:
    leaf = authority.issue("leaf", not_after=datetime(2030, 1, 1))  # noqa: DTZ001 - as above
    key, chain = leaf.key.read_bytes(), authority.certificate.read_bytes()

    found = not_after_s(key + leaf.certificate.read_bytes() + chain)

    assert found == 1_893_456_000


@given(st.binary(max_size=200))
def test_what_is_no_certificate_has_no_end(data: bytes) -> None:
    assert not_after_s(data) is None


@given(at=st.integers(0, 400), byte=st.integers(0, 255))
def test_broken_certificate_raises_nothing(authority: Authority, at: int, byte: int) -> None:
    pem = bytearray(Path(authority.certificate).read_bytes())
    pem[min(at, len(pem) - 1)] = byte

    not_after_s(bytes(pem))
