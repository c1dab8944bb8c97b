"""The files of TLS: read, checked, and read again when they change; nothing about who uses them."""

import logging
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from ratelimitd.errors import ConfigError
from ratelimitd.transport.certificate import not_after_s
from ratelimitd.transport.listen import TlsFiles

_log = logging.getLogger(__name__)

Signature = tuple[tuple[int, int, int], ...]
T = TypeVar("T")


class TlsReloader(Generic[T]):
    """What `build` makes of `files`, as they are now; remembers which version failed.

    `not_after_s` is the Unix time at which our certificate in use ends, None if it is unreadable.
    """

    def __init__(self, files: TlsFiles, build: Callable[[TlsFiles], T]) -> None:
        """Build it for the first time; ConfigError if the files cannot be used."""
        self._files = files
        self._build = build
        self._seen: Signature = self._signature()
        # A transport may look from threads of its own.
        self._lock = threading.Lock()
        self.current = build(files)
        self.not_after_s = not_after_s(read(files.certificate))

    def refresh(self) -> T:
        """Look at the files, and return what is to be used now."""
        signature = self._signature()
        with self._lock:
            if signature != self._seen:
                self._seen = signature
                self._replace()
            return self.current

    def _replace(self) -> None:
        try:
            current = self._build(self._files)
            self.not_after_s = not_after_s(read(self._files.certificate))
        except ConfigError as error:
            _log.error("TLS files changed and cannot be used, keeping the last ones: %s", error)
            return
        self.current = current
        _log.info("TLS files changed and are in use: %s", self._files.certificate)

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


def check_pair(certificate: Path, key: Path) -> None:
    """Raise ConfigError unless the files are a certificate and its key."""
    for path in (certificate, key):
        read(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(
            f"TLS: {certificate} and {key} are not a certificate and its unencrypted key in PEM: "
            f"{_told(error)}"
        ) from error


def read_authority(path: Path) -> bytes:
    """Return the certificates of an authority; ConfigError if there are none."""
    pem = read(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"TLS: {path} holds no certificates in PEM: {_told(error)}") from error
    return pem


def read(path: Path) -> bytes:
    """Return what is in a file; ConfigError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"TLS: cannot read {path}: {error.strerror}") from error


def _refuse_password() -> str:
    raise ValueError("the key is encrypted")


def _told(error: BaseException) -> str:
    """Return what a file's error says, without the place in the library's source."""
    if not isinstance(error, ssl.SSLError):
        return str(error)
    return (error.reason or "nothing in it can be read").replace("_", " ").lower()
