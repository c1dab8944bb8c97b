"""TLS of the gRPC port on grpcio: certificates that are read again when their files change.

Rules:
- Each handshake looks at the files' metadata and reads them only if it changed.
- Files that do not fit together keep the last good ones in use, and are logged once per change.
- With a client CA a certificate is required. What its holder may call is the gate's business.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc

from ratelimitd.policy.callers import DNS, EMAIL, URI, San
from ratelimitd.transport.listen import TlsFiles
from ratelimitd.transport.tls_files import TlsReloader, check_pair, read, read_authority

_KINDS = {"peer_dns": DNS, "peer_uri": URI, "peer_email": EMAIL}


@dataclass(frozen=True, slots=True)
class ServerTls:
    """How a port is encrypted: credentials that follow `files`."""

    credentials: grpc.ServerCredentials
    files: TlsReloader[grpc.ServerCertificateConfiguration]


def to_tls(files: TlsFiles) -> ServerTls:
    """Return credentials that follow `files`; ConfigError if they cannot be used now."""
    reloader = TlsReloader(files, _to_configuration)
    credentials = grpc.dynamic_ssl_server_credentials(
        reloader.current, _Fetch(reloader), files.client_ca is not None
    )
    return ServerTls(credentials, reloader)


class _Fetch:
    """What grpcio asks before each handshake: the new configuration, or None for no change.

    Others look at the files too, so what counts is what grpcio was given last.
    """

    def __init__(self, reloader: TlsReloader[grpc.ServerCertificateConfiguration]) -> None:
        self._reloader = reloader
        self._given = reloader.current

    def __call__(self) -> grpc.ServerCertificateConfiguration:
        newest = self._reloader.refresh()
        if newest is self._given:
            return None  # type: ignore[return-value] # it means unchanged; the stub forgot it
        self._given = newest
        return newest


def to_sans(auth_context: Mapping[str, Sequence[bytes]]) -> tuple[San, ...]:
    """Return the names in the peer's certificate."""
    return tuple(
        (kind, name.decode("utf-8", "replace"))
        for key, kind in _KINDS.items()
        for name in auth_context.get(key, ())
    )


def _to_configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """Read and check the files; ConfigError says which of them is wrong."""
    check_pair(files.certificate, files.key)
    authority = None if files.client_ca is None else read_authority(files.client_ca)
    pair = (read(files.key), read(files.certificate))
    return grpc.ssl_server_certificate_configuration([pair], authority)
