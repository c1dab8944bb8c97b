"""TLS of the HTTP/2 server: a context that follows its files, and who may call.

Rules:
- Each handshake looks at the files' metadata; if they changed it gets a new context, so that an
  authority that was taken out is trusted no more.
- With a client CA a certificate is required; with names, one of its DNS names or URIs must be
  among them, or every call of that connection is refused.
"""

import ssl
from collections.abc import Callable
from typing import Final

from ratelimitd.transport.h2.connection import Call
from ratelimitd.transport.h2.link import Link
from ratelimitd.transport.listen import TlsFiles
from ratelimitd.transport.tls_files import REFUSED_PEER, TlsReloader, check_pair, read_authority

PERMISSION_DENIED: Final = 7
_NAMES: Final = ("DNS", "URI")


def to_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a context that follows `files`; ConfigError if they cannot be used now."""
    reloader = TlsReloader(files, _build)
    first = reloader.current

    def use_newest(handshake: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        reloader.refresh()
        if reloader.current is not first:
            handshake.context = reloader.current

    first.sni_callback = use_newest
    return first


class PeerGuard:
    """Hands calls on to `on_calls`, but for those of peers that may not call."""

    def __init__(
        self,
        names: frozenset[str],
        on_calls: Callable[[Link, list[Call]], None],
        observe_call: Callable[[str, str, float], None],
    ) -> None:
        """Accept a certificate for one of `names`."""
        self._names = names
        self._on_calls = on_calls
        self._observe = observe_call

    def __call__(self, link: Link, calls: list[Call]) -> None:
        """Serve or refuse all calls of one read."""
        if not self._names.isdisjoint(_names_of(link)):
            self._on_calls(link, calls)
            return
        for stream_id, head, _ in calls:
            link.fail(stream_id, PERMISSION_DENIED, REFUSED_PEER)
            self._observe(getattr(head.method, "name", ""), "PERMISSION_DENIED", 0.0)


def _names_of(link: Link) -> list[str]:
    certificate = link.peer_certificate or {}
    return [name for kind, name in certificate.get("subjectAltName", ()) if kind in _NAMES]


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
    return context
