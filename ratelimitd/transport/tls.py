"""TLS of the gRPC port: certificates that are read again when their files change.

Rules:
- Each handshake looks at the files' metadata and reads them only if it changed.
- Files that do not fit together keep the last good ones in use, and are logged once per change.
- With a client CA a certificate is required; with names, one of its DNS names or URIs must be
  among them, or every call of that connection is refused.
"""

import logging
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc

from ratelimitd.errors import ConfigError
from ratelimitd.transport.listen import TlsFiles

_log = logging.getLogger(__name__)
_PEER_NAMES = ("peer_dns", "peer_uri")

Signature = tuple[tuple[int, int, int], ...]


def to_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials that follow `files`; ConfigError if they cannot be used now."""
    reloader = _Reloader(files)
    return grpc.dynamic_ssl_server_credentials(
        reloader.load(),
        reloader.load_if_changed,  # type: ignore[arg-type] # None means unchanged; the stub forgot it
        files.client_ca is not None,
    )


def is_peer_accepted(auth_context: Mapping[str, Sequence[bytes]], names: frozenset[bytes]) -> bool:
    """Tell whether the peer's certificate is for one of `names`; no names accept everybody."""
    if not names:
        return True
    return any(name in names for kind in _PEER_NAMES for name in auth_context.get(kind, ()))


class _Reloader:
    """Remembers which version of the files is in use, and which one failed."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen: Signature = ()

    def load(self) -> grpc.ServerCertificateConfiguration:
        """Read and check the files; ConfigError says which of them is wrong."""
        self._seen = self._signature()
        files = self._files
        _check_pair(files.certificate, files.key)
        authority = None if files.client_ca is None else _read_authority(files.client_ca)
        pair = (_read(files.key), _read(files.certificate))
        return grpc.ssl_server_certificate_configuration([pair], authority)

    def load_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new configuration, or None to go on with the last one."""
        try:
            if self._signature() == self._seen:
                return None
            configuration = self.load()
        except ConfigError as error:
            _log.error("TLS files changed and cannot be used, keeping the last ones: %s", error)
            return None
        _log.info("TLS files changed and are in use: %s", self._files.certificate)
        return configuration

    def _signature(self) -> Signature:
        files = self._files
        return tuple(
            _metadata(path)
            for path in (files.certificate, files.key, files.client_ca)
            if path is not None
        )


def _metadata(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _check_pair(certificate: Path, key: Path) -> None:
    for path in (certificate, key):
        _read(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigError(
            f"TLS: {certificate} and {key} are not a certificate and its unencrypted key in PEM: "
            f"{reason}"
        ) from error


def _read_authority(path: Path) -> bytes:
    pem = _read(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigError(f"TLS: {path} holds no certificates in PEM: {reason}") from error
    return pem


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"TLS: cannot read {path}: {error.strerror}") from error


def _refuse_password() -> str:
    raise ValueError("the key is encrypted")
