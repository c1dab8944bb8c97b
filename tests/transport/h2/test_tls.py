"""TLS sessions of the HTTP/2 server: one that is resumed would be verified by nobody."""

import asyncio
import os
import shutil
import socket
import ssl
from pathlib import Path

import pytest

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.server import Server
from ratelimitd.transport.h2.tls import to_tls
from ratelimitd.transport.listen import TlsFiles
from tests.support.certificates import make_authority
from tests.transport.h2.peer import METHODS

CLIENT_S = 5


def meet(
    port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> ssl.SSLSession | None:
    """Connect, exchange settings, and return the session. Raises OSError for a refusal."""
    with (
        socket.create_connection(("127.0.0.1", port), CLIENT_S) as sock,
        context.wrap_socket(sock, server_hostname="localhost", session=session) as encrypted,
    ):
        encrypted.sendall(frames.PREFACE + frames.settings({}))
        if not encrypted.recv(1024):
            raise ConnectionResetError("the server closed")
        return encrypted.session


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)
async def test_session_does_not_outlive_the_authority_of_its_certificate(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    # Given a client that was let in
    authority = make_authority(tmp_path / "ca")
    old, new = make_authority(tmp_path / "old", "Old CA"), make_authority(tmp_path / "new", "New")
    pair, client = authority.issue("localhost"), old.issue("client")
    trusted, beside = tmp_path / "trusted.pem", tmp_path / "trusted.new"
    trusted.write_bytes(old.certificate.read_bytes() + new.certificate.read_bytes())
    context = ssl.create_default_context(cafile=authority.certificate)
    context.load_cert_chain(client.certificate, client.key)
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    tls = to_tls(TlsFiles(certificate=pair.certificate, key=pair.key, client_ca=trusted))
    server = Server(METHODS, lambda *_: None)
    listener = socket.create_server(("127.0.0.1", 0))
    await server.listen(listener, tls.context)
    port = listener.getsockname()[1]
    try:
        session = await asyncio.to_thread(meet, port, context)

        # When its authority is taken out
        shutil.copy(new.certificate, beside)
        os.replace(beside, trusted)  # noqa: PTH105 - as an operator does it

        # Then it is refused, whether it brings its session or not
        for brought in (session, None):
            with pytest.raises(OSError):  # noqa: PT011 - an alert, or an end
                await asyncio.to_thread(meet, port, context, brought)
    finally:
        await server.stop(0)
