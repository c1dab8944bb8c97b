"""TLS of the gRPC port: who is served, who is not, and certificates that change."""

import os
import shutil
from pathlib import Path

import grpc
import grpc.aio
import pytest

from ratelimitd.errors import ConfigError
from ratelimitd.transport.listen import TlsFiles
from ratelimitd.transport.tls import to_tls
from tests.support.certificates import Authority, KeyPair, make_authority
from tests.transport.secured import OK_CALL, TIMEOUT_S, outcome, port
from tests.transport.support import EchoService, Serve, raw_call, status_of


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "ca")


@pytest.fixture
def server_pair(authority: Authority) -> KeyPair:
    return authority.issue("localhost")


async def test_tls_serves_who_trusts_us(
    authority: Authority, server_pair: KeyPair, serve: Serve
) -> None:
    async with serve(EchoService(), port(server_pair)) as server:
        assert await outcome(server.address, authority) == (grpc.StatusCode.OK, "")


async def test_tls_refuses_plain_text_and_goes_on(
    authority: Authority, server_pair: KeyPair, serve: Serve
) -> None:
    async with serve(EchoService(), port(server_pair)) as server:
        async with grpc.aio.insecure_channel(str(server.address)) as channel:
            code, _ = await status_of(raw_call(channel)(OK_CALL, timeout=TIMEOUT_S))
            assert code is grpc.StatusCode.UNAVAILABLE

        assert await outcome(server.address, authority) == (grpc.StatusCode.OK, "")


async def test_client_ca_requires_a_certificate_of_it(
    tmp_path: Path, authority: Authority, server_pair: KeyPair, serve: Serve
) -> None:
    stranger = make_authority(tmp_path / "other", "Other CA").issue("client")
    async with serve(EchoService(), port(server_pair, authority.certificate)) as server:
        no_certificate, _ = await outcome(server.address, authority)
        wrong_authority, _ = await outcome(server.address, authority, stranger)
        right = await outcome(server.address, authority, authority.issue("client"))

    assert no_certificate is grpc.StatusCode.UNAVAILABLE
    assert wrong_authority is grpc.StatusCode.UNAVAILABLE
    assert right == (grpc.StatusCode.OK, "")


@pytest.mark.parametrize(
    ("sans", "is_accepted"),
    [
        (("envoy.internal",), True),
        (("spiffe://cluster/envoy",), True),
        (("other.internal", "envoy.internal"), True),
        (("other.internal",), False),
        (("envoy.internal.evil.example",), False),
        (("spiffe://cluster/envoy/other",), False),
        (("10.0.0.1",), False),
    ],
)
async def test_names_are_compared_with_dns_names_and_uris(
    authority: Authority,
    server_pair: KeyPair,
    sans: tuple[str, ...],
    is_accepted: bool,
    serve: Serve,
) -> None:
    # The common name would match: it must not be looked at.
    client = authority.issue("envoy.internal", sans)
    names = ("envoy.internal", "spiffe://cluster/envoy", "10.0.0.1")
    service = EchoService()

    async with serve(service, port(server_pair, authority.certificate, names)) as server:
        found = await outcome(server.address, authority, client)

    if is_accepted:
        assert found == (grpc.StatusCode.OK, "")
    else:
        assert found[0] is grpc.StatusCode.PERMISSION_DENIED
        assert "--grpc-client-san" in found[1]
    assert len(service.contexts) == int(is_accepted)


async def test_changed_certificate_is_used_for_the_next_connection(
    tmp_path: Path, authority: Authority, server_pair: KeyPair, serve: Serve
) -> None:
    other = make_authority(tmp_path / "other", "Other CA")
    async with serve(EchoService(), port(server_pair)) as server:
        assert await outcome(server.address, authority) == (grpc.StatusCode.OK, "")

        replace(other.issue("localhost"), server_pair)

        assert await outcome(server.address, other) == (grpc.StatusCode.OK, "")
        code, _ = await outcome(server.address, authority)
        assert code is grpc.StatusCode.UNAVAILABLE


async def test_authority_that_was_taken_out_is_trusted_no_more(
    tmp_path: Path, authority: Authority, server_pair: KeyPair, serve: Serve
) -> None:
    other = make_authority(tmp_path / "other", "Other CA")
    trusted = tmp_path / "trusted.pem"
    shutil.copy(authority.certificate, trusted)
    old, new = authority.issue("client"), other.issue("client")
    async with serve(EchoService(), port(server_pair, trusted)) as server:
        assert await outcome(server.address, authority, old) == (grpc.StatusCode.OK, "")

        shutil.copy(other.certificate, tmp_path / "trusted.new")
        (tmp_path / "trusted.new").replace(trusted)

        assert await outcome(server.address, authority, new) == (grpc.StatusCode.OK, "")
        code, _ = await outcome(server.address, authority, old)
        assert code is grpc.StatusCode.UNAVAILABLE


async def test_broken_certificate_keeps_the_last_one_and_is_logged_once(
    authority: Authority, server_pair: KeyPair, caplog: pytest.LogCaptureFixture, serve: Serve
) -> None:
    async with serve(EchoService(), port(server_pair)) as server:
        server_pair.certificate.write_text("not a certificate")

        assert await outcome(server.address, authority) == (grpc.StatusCode.OK, "")
        assert await outcome(server.address, authority) == (grpc.StatusCode.OK, "")

    lines = [record for record in caplog.records if "keeping the last ones" in record.getMessage()]
    assert len(lines) == 1


@pytest.mark.parametrize("broken", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize("how", ["missing", "garbage", "directory"])
def test_files_that_cannot_be_used_are_one_line_that_names_them(
    authority: Authority, server_pair: KeyPair, broken: str, how: str
) -> None:
    files = TlsFiles(
        certificate=server_pair.certificate,
        key=server_pair.key,
        client_ca=authority.certificate,
    )
    path: Path = getattr(files, broken)
    path.unlink()
    if how == "garbage":
        path.write_text("garbage")
    elif how == "directory":
        path.mkdir()

    with pytest.raises(ConfigError) as caught:
        to_tls(files)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_key_of_another_certificate_is_refused(authority: Authority) -> None:
    one, other = authority.issue("one"), authority.issue("other")

    with pytest.raises(ConfigError, match="not a certificate and its unencrypted key"):
        to_tls(TlsFiles(certificate=one.certificate, key=other.key))


def replace(new: KeyPair, old: KeyPair) -> None:
    """Put new files in place as an operator does: written beside, then renamed."""
    for source, target in ((new.key, old.key), (new.certificate, old.certificate)):
        beside = target.with_suffix(".new")
        shutil.copy(source, beside)
        os.replace(beside, target)  # noqa: PTH105 - what the name says
