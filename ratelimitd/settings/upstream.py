"""The reference server's variables become texts for our options.

The table in upstream_table.py says what becomes of each; here is how those that are put together
from several are put together. Pure: the environment is an argument.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ratelimitd.settings import options
from ratelimitd.settings.option import Option
from ratelimitd.settings.upstream_store import RedisVariables, to_store_url
from ratelimitd.settings.upstream_table import UPSTREAM_VARIABLES, Fate, UpstreamVariable
from ratelimitd.settings.values import FALSE_TEXTS, parse_bool, parse_port

DEFAULT_RUNTIME_ROOT = "/srv/runtime_data/current"
DEFAULT_APPDIRECTORY = "config"
DEFAULT_PROMETHEUS_ADDR = ":9090"
_STORE_TLS: tuple[tuple[Option[object], str], ...] = (
    (options.STORE_CERT, "REDIS_TLS_CLIENT_CERT"),
    (options.STORE_KEY, "REDIS_TLS_CLIENT_KEY"),
    (options.STORE_CA, "REDIS_TLS_CACERT"),
    (options.STORE_ANY_HOSTNAME, "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION"),
)


@dataclass(frozen=True, slots=True)
class Text:
    """What somebody wrote, and where: a flag, or a variable."""

    source: str
    text: str = field(repr=False)


@dataclass(slots=True)
class Upstream:
    """What the reference server's variables say: texts by option name, problems, warnings."""

    texts: dict[str, Text] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_upstream(environ: Mapping[str, str]) -> Upstream:
    """Read every variable of the reference server that is set; an empty one counts as unset."""
    found = Upstream()
    for variable in UPSTREAM_VARIABLES:
        text = environ.get(variable.name, "")
        if text:
            _classify(variable, text, found)
    reader = _Reader(environ, found)
    for compose in (_listen, _tls, _policy, _store, _metrics):
        for option_name, composed in compose(reader):
            found.texts[option_name] = composed
    return found


def _classify(variable: UpstreamVariable, text: str, found: Upstream) -> None:
    is_harmless = text.lower() in {value.lower() for value in variable.harmless}
    match variable.fate:
        case Fate.HONOURED if variable.option is not None:
            found.texts[variable.option.name] = Text(variable.name, text)
        case Fate.HONOURED:
            pass
        case Fate.REFUSED if not is_harmless:
            accepted = " or ".join(sorted(variable.harmless))
            found.problems.append(
                f"{variable.name}={text}: {variable.note} (accepted: {accepted}, or unset it)"
            )
        case Fate.IGNORED if not is_harmless:
            found.warnings.append(f"{variable.name} is set and has no effect: {variable.note}")
        case Fate.REFUSED | Fate.IGNORED:
            pass


@dataclass(frozen=True, slots=True)
class _Reader:
    environ: Mapping[str, str]
    found: Upstream

    def text(self, name: str, default: str = "") -> str:
        return self.environ.get(name, "") or default

    def is_true(self, name: str) -> bool:
        text = self.text(name)
        try:
            return parse_bool(text) if text else False
        except ValueError as error:
            self.found.problems.append(f"{name}={text}: {error}")
            return False

    def port(self, name: str, default: int) -> int:
        text = self.text(name)
        try:
            return parse_port(text) if text else default
        except ValueError as error:
            self.found.problems.append(f"{name}={text}: {error}")
            return default

    def first_set(self, *names: str) -> str | None:
        return next((name for name in names if self.text(name)), None)


_Texts = Iterator[tuple[str, Text]]


def _listen(read: _Reader) -> _Texts:
    for option, host, port in (
        (options.GRPC, "GRPC_HOST", "GRPC_PORT"),
        (options.HTTP, "HOST", "PORT"),
    ):
        if source := read.first_set(port, host):
            name = read.text(host, options.EVERY_ADDRESS)
            name = f"[{name}]" if ":" in name and not name.startswith("[") else name
            default_port = option.default.port  # type: ignore[union-attr] # both defaults are TCP
            yield option.name, Text(source, f"{name}:{read.port(port, default_port)}")
    if path := read.text("GRPC_UDS"):
        yield options.GRPC.name, Text("GRPC_UDS", f"unix:{path}")


def _tls(read: _Reader) -> _Texts:
    pairs = (
        (options.GRPC_TLS_CERT, "GRPC_SERVER_TLS_CERT"),
        (options.GRPC_TLS_KEY, "GRPC_SERVER_TLS_KEY"),
        (options.GRPC_CLIENT_CA, "GRPC_CLIENT_TLS_CACERT"),
        (options.GRPC_CLIENT_SAN, "GRPC_CLIENT_TLS_SAN"),
    )
    if read.is_true("GRPC_SERVER_USE_TLS"):
        missing = [name for _, name in pairs[:2] if not read.text(name)]
        if missing:
            are = "is" if len(missing) == 1 else "are"
            read.found.problems.append(
                f"GRPC_SERVER_USE_TLS is true and {' and '.join(missing)} {are} not set: "
                "name the files of our certificate and its key"
            )
        yield from _set_ones(read, pairs)
        return
    for _, name in pairs[2:]:
        if read.text(name):
            read.found.warnings.append(
                f"{name} is set but GRPC_SERVER_USE_TLS is not true: callers are not checked"
            )


def _policy(read: _Reader) -> _Texts:
    source = read.first_set("RUNTIME_ROOT", "RUNTIME_SUBDIRECTORY", "RUNTIME_APPDIRECTORY")
    read.is_true("RUNTIME_WATCH_ROOT")
    if source is None:
        return
    root = read.text("RUNTIME_ROOT", DEFAULT_RUNTIME_ROOT)
    # Set and empty, this one means what it says: the files are in ROOT/SUBDIRECTORY itself.
    app = read.environ.get("RUNTIME_APPDIRECTORY", DEFAULT_APPDIRECTORY)
    parts = (root.rstrip("/"), read.text("RUNTIME_SUBDIRECTORY").strip("/"), app.strip("/"))
    yield options.POLICY.name, Text(source, "/".join(part for part in parts if part) or "/")


def _store(read: _Reader) -> _Texts:
    address = read.text("REDIS_URL")
    has_tls = read.is_true("REDIS_TLS") if read.text("REDIS_TLS") else None
    if not address:
        return
    socket_type = read.text("REDIS_SOCKET_TYPE")
    if socket_type not in {"", "tcp", "unix"}:
        read.found.problems.append(
            f"REDIS_SOCKET_TYPE={socket_type}: write tcp or unix; for TLS set REDIS_TLS=true"
        )
        socket_type = ""
    store_type = read.text("REDIS_TYPE").upper()
    url, problems = to_store_url(
        RedisVariables(
            url=address,
            auth=read.text("REDIS_AUTH"),
            socket_type=socket_type,
            has_tls=has_tls,
            is_cluster=store_type == "CLUSTER" if store_type else None,
        )
    )
    read.found.problems.extend(problems)
    yield options.STORE.name, Text("REDIS_URL", url)
    if url.startswith("rediss"):
        yield from _set_ones(read, _STORE_TLS)
    elif not problems:
        for _, name in _STORE_TLS:
            if read.text(name, "false") not in FALSE_TEXTS:
                read.found.warnings.append(
                    f"{name} is set but REDIS_TLS is not true: the store is spoken to without TLS"
                )


def _metrics(read: _Reader) -> _Texts:
    if not read.is_true("USE_PROMETHEUS"):
        return
    address = read.text("PROMETHEUS_ADDR", DEFAULT_PROMETHEUS_ADDR)
    yield options.METRICS.name, Text("PROMETHEUS_ADDR", address)
    yield from _set_ones(read, ((options.METRICS_PATH, "PROMETHEUS_PATH"),))


def _set_ones(read: _Reader, pairs: Iterable[tuple[Option[object], str]]) -> _Texts:
    for option, name in pairs:
        if text := read.text(name):
            yield option.name, Text(name, text)
