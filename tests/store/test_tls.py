from pathlib import Path

import pytest

from ratelimitd.errors import StoreUnavailable
from ratelimitd.store.address import AddressOptions
from tests.store.conftest import MakeClient
from tests.support.certificates import Authority, make_authority
from tests.support.servers import MakeServer, TlsFiles


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca"))


def _files(authority: Authority, san: str, *, requires_client: bool = False) -> TlsFiles:
    pair = authority.issue(f"server-{san}", (san,))
    return TlsFiles(authority.certificate, pair.certificate, pair.key, requires_client)


async def test_tls_store_is_trusted_by_its_authority(
    make_server: MakeServer, make_client: MakeClient, authority: Authority
) -> None:
    # given
    server = make_server("redis7", tls=_files(authority, "127.0.0.1"))
    client = make_client(
        f"rediss://127.0.0.1:{server.tls_port}", AddressOptions(tls_ca_file=authority.certificate)
    )
    # when / then
    assert await client.run("PING", timeout_s=5) == b"PONG"
    assert await client.run("PING", timeout_s=5) == b"PONG"


async def test_tls_store_of_an_unknown_authority_is_refused(
    make_server: MakeServer, make_client: MakeClient, authority: Authority, tmp_path: Path
) -> None:
    # given
    other = make_authority(tmp_path / "other", "Another CA")
    server = make_server("redis7", tls=_files(authority, "127.0.0.1"))
    url = f"rediss://127.0.0.1:{server.tls_port}"
    # when / then
    for ca in (other.certificate, None):
        client = make_client(url, AddressOptions(tls_ca_file=ca))
        with pytest.raises(StoreUnavailable, match="its certificate: "):
            await client.run("PING", timeout_s=5)


async def test_tls_store_with_another_name_is_refused_unless_told(
    make_server: MakeServer, make_client: MakeClient, authority: Authority
) -> None:
    # given
    server = make_server("redis7", tls=_files(authority, "elsewhere.test"))
    url = f"rediss://127.0.0.1:{server.tls_port}"
    strict = make_client(url, AddressOptions(tls_ca_file=authority.certificate))
    lenient = make_client(
        url, AddressOptions(tls_ca_file=authority.certificate, skips_hostname_check=True)
    )
    # when / then
    with pytest.raises(StoreUnavailable, match="IP address mismatch"):
        await strict.run("PING", timeout_s=5)
    assert await lenient.run("PING", timeout_s=5) == b"PONG"


async def test_tls_store_that_wants_our_certificate_gets_it(
    make_server: MakeServer, make_client: MakeClient, authority: Authority
) -> None:
    # given
    server = make_server("redis7", tls=_files(authority, "127.0.0.1", requires_client=True))
    url = f"rediss://127.0.0.1:{server.tls_port}"
    ours = authority.issue("daemon")
    nameless = make_client(url, AddressOptions(tls_ca_file=authority.certificate))
    known = make_client(
        url,
        AddressOptions(
            tls_ca_file=authority.certificate,
            tls_certificate_file=ours.certificate,
            tls_key_file=ours.key,
        ),
    )
    # when / then
    with pytest.raises(StoreUnavailable, match="it may want a client certificate"):
        await nameless.run("PING", timeout_s=5)
    assert await known.run("PING", timeout_s=5) == b"PONG"


async def test_missing_tls_file_is_named(make_client: MakeClient, tmp_path: Path) -> None:
    # given
    client = make_client("rediss://127.0.0.1:1", AddressOptions(tls_ca_file=tmp_path / "none.pem"))
    # when / then
    with pytest.raises(StoreUnavailable, match=r"none\.pem: No such file"):
        await client.run("PING", timeout_s=5)


async def test_plain_store_behind_a_tls_url_is_given_up(
    make_server: MakeServer, make_client: MakeClient, authority: Authority
) -> None:
    # given
    server = make_server("redis7", has_tcp=True)
    client = make_client(
        f"rediss://127.0.0.1:{server.port}",
        AddressOptions(tls_ca_file=authority.certificate),
        store_timeout_s=0.2,
    )
    # when / then: it waits for the rest of what it takes for a command
    with pytest.raises(StoreUnavailable, match="no connection within 200 ms"):
        await client.run("PING", timeout_s=5)
