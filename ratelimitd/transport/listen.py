"""Where a port listens and with which TLS files; nothing about who serves it."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host name or address and a port; port 0 asks the system for a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return `HOST:PORT`, an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a unix socket."""

    path: str

    def __str__(self) -> str:
        """Return `unix:PATH`."""
        return f"unix:{self.path}"


ListenAddress = TcpAddress | UnixAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The files of a listener: our certificate and key, and whom callers must be known to."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


def is_private(address: ListenAddress) -> bool:
    """Tell whether only this machine can reach `address`."""
    if isinstance(address, UnixAddress):
        return True
    if address.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False
