"""Where the store is and how to reach it: a store URL and its options become a StoreAddress.

    embedded                                            a server of our own, in the data directory
    redis://[user[:password]@]host[:port][/database]    one node; rediss:// for TLS
    unix://[user[:password]@]/path[?db=database]        one node on a unix socket
    redis+cluster://[user[:password]@]host[:port],...   a Cluster; rediss+cluster:// for TLS

Rules:
- No text made here shows a password: not a repr, not an error about the URL that holds it.
- A password file is read again on each dial, so that a rotated password needs no restart.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from ratelimitd.errors import ConfigError

DEFAULT_PORT = 6379
MAX_PORT = 65_535
MAX_DIGITS = 6
# sockaddr_un holds 108 bytes with the closing zero.
MAX_SOCKET_PATH_BYTES = 107
# A password file holds one line; more is the wrong file.
MAX_PASSWORD_BYTES = 64 * 1024
ACCEPTED = (
    "use embedded, redis://host:port/database, rediss://host:port/database, unix:///path,"
    " redis+cluster://host:port,host:port or rediss+cluster://host:port,host:port"
)


class StoreKind(StrEnum):
    """What stands behind an address."""

    EMBEDDED = "embedded"
    SINGLE = "single"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server: a host and port, or a unix path with an empty host."""

    host: str = ""
    port: int = 0
    unix_path: str = ""

    def __str__(self) -> str:
        """Return `host:port` or `unix:path`, for messages and logs."""
        if self.unix_path:
            return f"unix:{self.unix_path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How to trust the store and how to be trusted; no CA file means the system's authorities."""

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    checks_hostname: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who we are to the store; an empty user is the default user."""

    user: str = ""
    password: str = field(default="", repr=False)
    password_file: Path | None = None

    def read(self) -> tuple[str, str]:
        """Return user and password as of now; ConfigError if the password file cannot be read."""
        if self.password_file is None:
            return self.user, self.password
        try:
            with self.password_file.open("rb") as file:
                raw = file.read(MAX_PASSWORD_BYTES + 1)
        except OSError as error:
            reason = error.strerror or "unreadable"
            raise ConfigError(f"store password file {self.password_file}: {reason}") from error
        if len(raw) > MAX_PASSWORD_BYTES:
            raise ConfigError(
                f"store password file {self.password_file}: more than {MAX_PASSWORD_BYTES} bytes;"
                " it must hold the password alone"
            )
        try:
            password = raw.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ConfigError(f"store password file {self.password_file}: not UTF-8") from error
        if not password:
            raise ConfigError(f"store password file {self.password_file}: it is empty")
        return self.user, password


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAddress:
    """A store to dial; `endpoints` is empty for embedded and holds the seeds of a Cluster."""

    kind: StoreKind
    endpoints: tuple[Endpoint, ...] = ()
    database: int = 0
    credentials: Credentials = Credentials()
    tls: Tls | None = None

    def __str__(self) -> str:
        """Return the address without user, password or options."""
        if self.kind is StoreKind.EMBEDDED:
            return "embedded"
        places = ",".join(map(str, self.endpoints))
        return f"{places}/{self.database}" if self.database else places


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressOptions:
    """What a store URL leaves to flags and variables; they win over the URL."""

    user: str = ""
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    tls_ca_file: Path | None = None
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    skips_hostname_check: bool = False


def parse_address(text: str, options: AddressOptions | None = None) -> StoreAddress:
    """Read a store URL; ConfigError says what is wrong with it and never shows its password."""
    options = options or AddressOptions()
    if text == "embedded":
        return StoreAddress(kind=StoreKind.EMBEDDED)
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise ConfigError(f"store URL: it has no scheme; {ACCEPTED}")
    if any(char.isspace() or not char.isprintable() for char in text):
        raise ConfigError("store URL: it holds a blank or a control character; write it as %20")
    rest, query = _split_off(rest, "?")
    user_info, at, place = rest.rpartition("@")
    _refuse_unescaped(user_info if at else "", place)
    credentials = _credentials(user_info, options)
    match scheme:
        case "unix":
            _refuse_tls_options(scheme, options)
            return StoreAddress(
                kind=StoreKind.SINGLE,
                endpoints=(_unix_endpoint(place),),
                database=_database(_options_of(query)),
                credentials=credentials,
            )
        case "redis" | "rediss":
            hosts, path = _split_off(place, "/")
            return StoreAddress(
                kind=StoreKind.SINGLE,
                endpoints=(_single_endpoint(hosts),),
                database=_database(_options_of(query), path),
                credentials=credentials,
                tls=_tls(scheme, options),
            )
        case "redis+cluster" | "rediss+cluster":
            hosts, path = _split_off(place, "/")
            if _database(_options_of(query), path):
                raise ConfigError("store URL: a Cluster has database 0 only; remove the number")
            return StoreAddress(
                kind=StoreKind.CLUSTER,
                endpoints=tuple(_tcp_endpoint(part) for part in hosts.split(",")),
                credentials=credentials,
                tls=_tls(scheme, options),
            )
        case _:
            # What stands before "://" may be a password written in the wrong place.
            raise ConfigError(f"store URL: its scheme is not known; {ACCEPTED}")


def _split_off(text: str, separator: str) -> tuple[str, str]:
    head, _, tail = text.partition(separator)
    return head, tail


def _refuse_unescaped(user_info: str, place: str) -> None:
    """An unescaped / ? # or @ in a password would cut the URL in a wrong place."""
    if any(char in user_info for char in "@/#") or "#" in place:
        raise ConfigError(
            "store URL: user and password must be percent-encoded"
            " (@ as %40, / as %2F, # as %23, ? as %3F, : as %3A)"
        )


def _credentials(user_info: str, options: AddressOptions) -> Credentials:
    user, _, password = user_info.partition(":")
    if options.password and options.password_file:
        raise ConfigError("store password: given both as a value and as a file; keep one")
    if options.password_file:
        password = ""
    return Credentials(
        user=options.user or unquote(user),
        password=options.password or unquote(password),
        password_file=options.password_file,
    )


def _unix_endpoint(place: str) -> Endpoint:
    if not place.startswith("/"):
        raise ConfigError("store URL: a unix path must be absolute: unix:///run/valkey.sock")
    return Endpoint(unix_path=unquote(place))


def _single_endpoint(hosts: str) -> Endpoint:
    if "," in hosts:
        raise ConfigError(
            "store URL: several hosts; use redis+cluster:// (or rediss+cluster://) for a Cluster"
        )
    return _tcp_endpoint(hosts)


_HOST_AND_PORT = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\[\]:/?#]+))(?::(?P<port>.*))?"
)


def _tcp_endpoint(text: str) -> Endpoint:
    matched = _HOST_AND_PORT.fullmatch(text)
    if matched is None:
        problem = "a host is missing" if not text or text.startswith(":") else "a host is malformed"
        raise ConfigError(f"store URL: {problem}; write host:port, an IPv6 address as [::1]:6379")
    port = matched["port"]
    if port is None:
        return Endpoint(host=matched["v6"] or matched["host"], port=DEFAULT_PORT)
    number = _number(port)
    if not number or number > MAX_PORT:
        # The port's text is not shown: `redis://user:password` without a host ends up here.
        raise ConfigError("store URL: the port is not a number from 1 to 65535")
    return Endpoint(host=matched["v6"] or matched["host"], port=number)


def _options_of(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if options.keys() - {"db"}:
        raise ConfigError(
            "store URL: only ?db=NUMBER is accepted after the path; TLS and timeouts have flags"
        )
    return options


def _database(options: dict[str, str], path: str = "") -> int:
    if path and "db" in options:
        raise ConfigError("store URL: the database is given twice, in the path and as ?db=")
    text = options.get("db", path)
    if not text and "db" not in options:
        return 0
    number = _number(text)
    if number is None:
        raise ConfigError("store URL: the database is not a number; write redis://host:port/0")
    return number


def _number(text: str) -> int | None:
    is_number = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    return int(text) if is_number else None


def _tls(scheme: str, options: AddressOptions) -> Tls | None:
    if not scheme.startswith("rediss"):
        _refuse_tls_options(scheme, options)
        return None
    if (options.tls_certificate_file is None) != (options.tls_key_file is None):
        raise ConfigError(
            "store TLS: a client certificate needs its key and the key its certificate"
        )
    return Tls(
        ca_file=options.tls_ca_file,
        certificate_file=options.tls_certificate_file,
        key_file=options.tls_key_file,
        checks_hostname=not options.skips_hostname_check,
    )


def _refuse_tls_options(scheme: str, options: AddressOptions) -> None:
    files = (options.tls_ca_file, options.tls_certificate_file, options.tls_key_file)
    if any(files) or options.skips_hostname_check:
        raise ConfigError(
            f"store TLS: options are given but the URL is {scheme}://; use rediss:// for TLS"
        )
