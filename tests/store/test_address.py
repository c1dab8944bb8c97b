from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.errors import ConfigError
from ratelimitd.store.address import AddressOptions, Endpoint, StoreKind, Tls, parse_address


@pytest.mark.parametrize(
    ("url", "kind", "endpoints", "database"),
    [
        ("embedded", StoreKind.EMBEDDED, (), 0),
        ("redis://localhost", StoreKind.SINGLE, (Endpoint("localhost", 6379),), 0),
        ("redis://localhost:7000/", StoreKind.SINGLE, (Endpoint("localhost", 7000),), 0),
        ("redis://h:1/3", StoreKind.SINGLE, (Endpoint("h", 1),), 3),
        ("redis://h:1?db=3", StoreKind.SINGLE, (Endpoint("h", 1),), 3),
        ("rediss://[::1]:7000/3", StoreKind.SINGLE, (Endpoint("::1", 7000),), 3),
        ("unix:///run/a%20b.sock", StoreKind.SINGLE, (Endpoint(unix_path="/run/a b.sock"),), 0),
        ("unix:///run/s?db=2", StoreKind.SINGLE, (Endpoint(unix_path="/run/s"),), 2),
        (
            "redis+cluster://a:1,b,[::1]:3",
            StoreKind.CLUSTER,
            (Endpoint("a", 1), Endpoint("b", 6379), Endpoint("::1", 3)),
            0,
        ),
        ("rediss+cluster://a:1/0", StoreKind.CLUSTER, (Endpoint("a", 1),), 0),
    ],
)
def test_address_reads_each_form(
    url: str, kind: StoreKind, endpoints: tuple[Endpoint, ...], database: int
) -> None:
    # when
    address = parse_address(url)
    # then
    assert (address.kind, address.endpoints, address.database) == (kind, endpoints, database)
    assert (address.tls is not None) == url.startswith("rediss")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("localhost:6379", "no scheme"),
        ("", "no scheme"),
        ("http://localhost", "scheme is not known"),
        ("redis://", "host is missing"),
        ("redis://:6379", "host is missing"),
        ("redis://h:0", "port is not a number"),
        ("redis://h:65536", "port is not a number"),
        ("redis://h:00080000", "port is not a number"),
        ("redis://h:port", "port is not a number"),
        ("redis://::1", "host is missing"),
        ("redis://[::1", "host is malformed"),
        ("redis://h/x", "database is not a number"),
        ("redis://h/-1", "database is not a number"),
        ("redis://h/1/2", "database is not a number"),
        ("redis://h/1?db=2", "given twice"),
        ("redis://h?db=", "database is not a number"),
        ("redis://h?timeout=5", r"only \?db=NUMBER"),
        ("redis://a,b", r"use redis\+cluster"),
        ("redis+cluster://a,,b", "host is missing"),
        ("redis+cluster://a/1", "database 0 only"),
        ("unix://run/s", "must be absolute"),
        ("unix://", "must be absolute"),
        ("redis://h ost", "blank or a control"),
        ("redis://h\nost", "blank or a control"),
    ],
)
def test_malformed_address_says_what_is_wrong(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parse_address(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:s3cret/s3cret@host",
        "redis://user:s3cret#s3cret@host",
        "redis://user:s3cret@s3cret@host",
        "redis://user:s3cret",
        "user:s3cret@host",
        "s3cret://host",
        "redis://user:s3cret@host:s3cret",
        "redis://user:s3cret@host/s3cret",
        "redis://user:s3cret@host?password=s3cret",
        "unix://user:s3cret@s3cret",
        "redis://user:s3 cret@host",
    ],
)
def test_malformed_address_never_shows_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(url)
    assert "s3cret" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_config_error(text: str) -> None:
    for scheme in ("", "redis://", "rediss+cluster://", "unix://"):
        try:
            address = parse_address(scheme + text)
        except ConfigError:
            continue
        assert address.kind in StoreKind


def test_address_shows_no_password() -> None:
    # when
    address = parse_address("redis://us%40er:s3%2Fcret@host:1/2")
    # then
    assert address.credentials.read() == ("us@er", "s3/cret")
    assert "cret" not in repr(address) + str(address)
    assert str(address) == "host:1/2"
    assert "s3" not in repr(AddressOptions(password="s3cret"))


def test_options_win_over_the_url() -> None:
    # when
    address = parse_address("redis://a:b@host", AddressOptions(user="c", password="d"))
    # then
    assert address.credentials.read() == ("c", "d")


def test_password_file_replaces_the_password_of_the_url(tmp_path: Path) -> None:
    # given
    file = tmp_path / "password"
    file.write_text("from-file\r\n")
    # when
    address = parse_address("redis://a:b@host", AddressOptions(password_file=file))
    # then
    assert address.credentials.read() == ("a", "from-file")


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "No such file"), (b"\n", "empty"), (b"\xff", "UTF-8"), (b"x" * 70_000, "more than")],
)
def test_unusable_password_file_says_why(tmp_path: Path, content: bytes | None, text: str) -> None:
    # given
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    address = parse_address("redis://host", AddressOptions(password_file=file))
    # when / then
    with pytest.raises(ConfigError, match=text):
        address.credentials.read()


def test_tls_options_are_kept(tmp_path: Path) -> None:
    # when
    address = parse_address(
        "rediss://host",
        AddressOptions(
            tls_ca_file=tmp_path / "ca",
            tls_certificate_file=tmp_path / "crt",
            tls_key_file=tmp_path / "key",
            skips_hostname_check=True,
        ),
    )
    # then
    assert address.tls == Tls(
        ca_file=tmp_path / "ca",
        certificate_file=tmp_path / "crt",
        key_file=tmp_path / "key",
        checks_hostname=False,
    )


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("redis://h", AddressOptions(tls_ca_file=Path("ca")), "use rediss://"),
        ("unix:///s", AddressOptions(skips_hostname_check=True), "use rediss://"),
        ("rediss://h", AddressOptions(tls_key_file=Path("key")), "needs its key"),
        ("redis://h", AddressOptions(password="a", password_file=Path("b")), "keep one"),
    ],
)
def test_options_that_contradict_are_refused(url: str, options: AddressOptions, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parse_address(url, options)
