"""TLS of the HTTP/2 server: a context that follows its files.

Rules:
- Each handshake looks at the files' metadata; if they changed it gets a new context, so that an
  authority that was taken out is trusted no more.
- With a client CA a certificate is required. What its holder may call is the guard's business.
"""

import ssl
from dataclasses import dataclass

from ratelimitd.transport.listen import TlsFiles
from ratelimitd.transport.tls_files import TlsReloader, check_pair, read_authority


@dataclass(frozen=True, slots=True)
class ServerTls:
    """How connections are encrypted: a context that follows `files`."""

    context: ssl.SSLContext
    files: TlsReloader[ssl.SSLContext]


def to_tls(files: TlsFiles) -> ServerTls:
    """Return a context that follows `files`; ConfigError if they cannot be used now."""
    reloader = TlsReloader(files, _build)
    first = reloader.current

    def use_newest(handshake: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        newest = reloader.refresh()
        if newest is not first:
            handshake.context = newest

    first.sni_callback = use_newest
    return ServerTls(first, reloader)


def _build(files: TlsFiles) -> ssl.SSLContext:
    check_pair(files.certificate, files.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(files.certificate, files.key)
    if files.client_ca is not None:
        read_authority(files.client_ca)
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
        # A session that is resumed is not verified again, whatever became of its authority.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context
