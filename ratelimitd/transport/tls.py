"""TLS of the gRPC port on grpcio: certificates that are read again when their files change.

Rules:
- Each handshake looks at the files' metadata and reads them only if it changed.
- Files that do not fit together keep the last good ones in use, and are logged once per change.
- With a client CA a certificate is required; with names, one of its DNS names or URIs must be
  among them, or every call of that connection is refused.
"""

from collections.abc import Mapping, Sequence

import grpc

from ratelimitd.transport.listen import TlsFiles
from ratelimitd.transport.tls_files import TlsReloader, check_pair, read, read_authority

_PEER_NAMES = ("peer_dns", "peer_uri")


def to_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials that follow `files`; ConfigError if they cannot be used now."""
    reloader = TlsReloader(files, _to_configuration)
    return grpc.dynamic_ssl_server_credentials(
        reloader.current,
        lambda: reloader.current if reloader.refresh() else None,  # type: ignore[arg-type, return-value] # None means unchanged; the stub forgot it
        files.client_ca is not None,
    )


def is_peer_accepted(auth_context: Mapping[str, Sequence[bytes]], names: frozenset[bytes]) -> bool:
    """Tell whether the peer's certificate is for one of `names`; no names accept everybody."""
    if not names:
        return True
    return any(name in names for kind in _PEER_NAMES for name in auth_context.get(kind, ()))


def _to_configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """Read and check the files; ConfigError says which of them is wrong."""
    check_pair(files.certificate, files.key)
    authority = None if files.client_ca is None else read_authority(files.client_ca)
    pair = (read(files.key), read(files.certificate))
    return grpc.ssl_server_certificate_configuration([pair], authority)
