"""TLS of the gRPC port on grpcio: certificates that are read again when their files change.

Rules:
- Each handshake looks at the files' metadata and reads them only if it changed.
- Files that do not fit together keep the last good ones in use, and are logged once per change.
- With a client CA a certificate is required. What its holder may call is the gate's business.
"""

from collections.abc import Mapping, Sequence

import grpc

from ratelimitd.policy.callers import DNS, EMAIL, URI, San
from ratelimitd.transport.listen import TlsFiles
from ratelimitd.transport.tls_files import TlsReloader, check_pair, read, read_authority

_KINDS = {"peer_dns": DNS, "peer_uri": URI, "peer_email": EMAIL}


def to_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials that follow `files`; ConfigError if they cannot be used now."""
    reloader = TlsReloader(files, _to_configuration)
    return grpc.dynamic_ssl_server_credentials(
        reloader.current,
        lambda: reloader.current if reloader.refresh() else None,  # type: ignore[arg-type, return-value] # None means unchanged; the stub forgot it
        files.client_ca is not None,
    )


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
