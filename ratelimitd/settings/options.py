"""Every flag of the daemon, once: its name, its variable, what it accepts and its default.

A flag `--grpc-tls-cert` has the variable RATELIMITD_GRPC_TLS_CERT. The command line, the loader
and the tests read this table, so that none of them can forget one.
"""

from functools import partial
from pathlib import Path

from ratelimitd.settings import values
from ratelimitd.settings.option import DURATION, Option
from ratelimitd.settings.values import DataPlane, LogLevel, MetricsCompat
from ratelimitd.telemetry.logs import LogFormat
from ratelimitd.transport.listen import ListenAddress, TcpAddress

LISTENING, POLICY_PANEL, STORE_PANEL = "Listening", "Policy", "Store"
TLS, ANSWERS, RUNNING = "TLS of the gRPC port", "Answers", "Running"
HOUR_US = 3_600_000_000
MIB = 1024 * 1024
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - a rate-limit service is there to be reached


def _switch(name: str, text: str, panel: str) -> Option[bool]:
    return Option(
        name=name,
        help=text,
        parse=values.parse_bool,
        default=False,
        metavar="BOOL",
        panel=panel,
        is_switch=True,
    )


def _path(name: str, text: str, panel: str, metavar: str = "FILE") -> Option[Path | None]:
    return Option[Path | None](
        name=name, help=text, parse=values.parse_path, default=None, metavar=metavar, panel=panel
    )


def _duration(name: str, text: str, default_us: int, panel: str) -> Option[int]:
    return Option(
        name=name,
        help=text,
        parse=values.parse_duration_us,
        default=default_us,
        metavar=DURATION,
        panel=panel,
    )


def _number(name: str, text: str) -> Option[int]:
    return Option(
        name=name, help=text, parse=values.parse_positive, default=1, metavar="N", panel=RUNNING
    )


def _bytes(name: str, text: str, default: int, least: int = 0) -> Option[int]:
    return Option(
        name=name,
        help=text,
        parse=partial(values.parse_count, minimum=least),
        default=default,
        metavar="BYTES",
        panel=STORE_PANEL,
    )


def _header(name: str, default: str, told: str) -> Option[str]:
    return Option(
        name=name,
        help=f"Name of the header that tells {told}.",
        parse=values.parse_header_name,
        default=default,
        metavar="NAME",
        panel=ANSWERS,
    )


POLICY = _path(
    "policy", "Directory of policy files; loaded again when they change.", POLICY_PANEL, "DIR"
)
IGNORE_DOT_FILES = Option(
    name="ignore-dot-files",
    help="Skip files whose name starts with a dot; off by default for RUNTIME_ROOT.",
    parse=values.parse_bool,
    default=True,
    metavar="BOOL",
    panel=POLICY_PANEL,
    is_switch=True,
)
MERGE_DOMAINS = _switch(
    "merge-domains", "Files of the same domain are merged instead of refused.", POLICY_PANEL
)
COUNT_ONLY_ADMITTED = _switch(
    "count-only-admitted", "A refused request is not counted by any limit.", POLICY_PANEL
)
START_WITHOUT_POLICY = _switch(
    "start-without-policy",
    "Start although the first policy has errors; calls fail until it is right.",
    POLICY_PANEL,
)
HEALTHY_WITH_POLICY = _switch(
    "healthy-with-policy", "Healthy only while at least one domain is loaded.", POLICY_PANEL
)

STORE = Option[str | None](
    name="store",
    help="'embedded', or the URL of a Redis or Valkey: redis://, rediss://, unix://.",
    parse=values.parse_store,
    default=None,
    metavar="embedded|URL",
    panel=STORE_PANEL,
    is_secret=True,
)
STORE_PASSWORD_FILE = _path(
    "store-password-file", "File with the store's password; read at each dial.", STORE_PANEL
)
STORE_CA = _path("store-ca", "Certificates to trust for the store (rediss://).", STORE_PANEL)
STORE_CERT = _path("store-cert", "Our certificate for the store.", STORE_PANEL)
STORE_KEY = _path("store-key", "The key of our certificate for the store.", STORE_PANEL)
STORE_ANY_HOSTNAME = _switch(
    "store-any-hostname", "Do not compare the store's certificate with its name.", STORE_PANEL
)
STORE_TIMEOUT = Option(
    name="store-timeout",
    help="A store that is silent for this long is given up; 5ms at least.",
    parse=values.parse_store_timeout_us,
    default=250_000,
    metavar=DURATION,
    panel=STORE_PANEL,
)
HEALTHY_WITH_STORE = _switch(
    "healthy-with-store", "Healthy only while the store answers.", STORE_PANEL
)
HASH_SECRET_FILE = _path(
    "hash-secret-file", "Hashes sensitive values, instead of a secret in the store.", STORE_PANEL
)
KEY_PREFIX = Option(
    name="key-prefix",
    help="Starts every counter's key, for stores that are shared.",
    parse=values.parse_text,
    default="",
    panel=STORE_PANEL,
)
DENY_CACHE_BYTES = _bytes(
    "deny-cache-bytes", "Memory for answers that are known to be refusals; 0 is off.", 0
)
EMBEDDED_MEMORY_BYTES = _bytes(
    "embedded-memory-bytes",
    "Memory of the embedded store; then it forgets.",
    512 * MIB,
    # With less its own tables leave no room for counters.
    least=8 * MIB,
)
DATA_DIR = Option[Path](
    name="data-dir",
    help="Directory of the embedded store.",
    parse=values.parse_path,
    default=Path("/var/lib/ratelimitd"),
    metavar="DIR",
    panel=STORE_PANEL,
)

GRPC = Option[ListenAddress](
    name="grpc",
    help="Where Envoy calls: HOST:PORT, [IPV6]:PORT or unix:PATH.",
    parse=values.parse_listen,
    default=TcpAddress(EVERY_ADDRESS, 8081),
    metavar="ADDRESS",
    panel=LISTENING,
)
HTTP = Option[ListenAddress](
    name="http",
    help="Where /json, /healthz, /metrics and /policy are.",
    parse=values.parse_listen,
    default=TcpAddress(EVERY_ADDRESS, 8080),
    metavar="ADDRESS",
    panel=LISTENING,
)
ADMIN = Option[ListenAddress](
    name="admin",
    help="Where ratelimitctl asks: loopback or a unix socket.",
    parse=values.parse_listen,
    default=TcpAddress("127.0.0.1", 8082),
    metavar="ADDRESS",
    panel=LISTENING,
)
INSECURE_ADMIN = _switch(
    "insecure-admin", "Let --admin listen where others can reach it, unauthenticated.", LISTENING
)
METRICS = Option[ListenAddress | None](
    name="metrics",
    help="One more port that serves the metrics alone.",
    parse=values.parse_listen,
    default=None,
    metavar="ADDRESS",
    panel=LISTENING,
)
METRICS_PATH = Option(
    name="metrics-path",
    help="The page of the port of --metrics.",
    parse=values.parse_url_path,
    default="/metrics",
    metavar="PATH",
    panel=LISTENING,
)
CONNECTION_AGE = _duration(
    "connection-age", "A gRPC connection is asked to leave after this.", 24 * HOUR_US, LISTENING
)
CONNECTION_AGE_GRACE = _duration(
    "connection-age-grace", "How long its last calls may take.", HOUR_US, LISTENING
)

GRPC_TLS_CERT = _path("grpc-tls-cert", "Our certificate; read again when it changes.", TLS)
GRPC_TLS_KEY = _path("grpc-tls-key", "The key of our certificate.", TLS)
GRPC_CLIENT_CA = _path("grpc-client-ca", "Callers must show a certificate of these.", TLS)
GRPC_CLIENT_SAN = Option[tuple[str, ...]](
    name="grpc-client-san",
    help="And it must be for one of these DNS names or URIs.",
    parse=values.parse_names,
    default=(),
    metavar="NAME,NAME",
    panel=TLS,
)

SHADOW_MODE = _switch("shadow-mode", "Count and report, and refuse nothing.", ANSWERS)
QUOTA_MODE = _switch("quota-mode", "Refuse only when every limit of a request is over.", ANSWERS)
DYNAMIC_METADATA = _switch("dynamic-metadata", "Tell Envoy what was matched.", ANSWERS)
LIMIT_HEADERS = _switch("limit-headers", "Add the RateLimit headers to every answer.", ANSWERS)
LIMIT_HEADER = _header("limit-header", "RateLimit-Limit", "the limit")
REMAINING_HEADER = _header("remaining-header", "RateLimit-Remaining", "what is left of it")
RESET_HEADER = _header("reset-header", "RateLimit-Reset", "the seconds until it begins anew")
NEAR_LIMIT_RATIO = Option(
    name="near-limit-ratio",
    help="From which share of a limit on it counts as near, in metrics.",
    parse=values.parse_ratio,
    default=0.8,
    metavar="RATIO",
    panel=ANSWERS,
)
DEFAULT_DEADLINE = _duration(
    "default-deadline", "For calls that come without a deadline.", 500_000, ANSWERS
)

WORKERS = Option(
    name="workers",
    help="Processes that answer, one for each core; with --data-plane grpcio one.",
    parse=values.parse_workers,
    default=1,
    metavar="N",
    panel=RUNNING,
)
DATA_PLANE = Option(
    name="data-plane",
    help="Who answers on the gRPC port: h2, our own server, or grpcio.",
    parse=values.parse_data_plane,
    default=DataPlane.H2,
    metavar="h2|grpcio",
    panel=RUNNING,
)
REPLICAS = _number(
    "replicas", "Daemons on this store; a limit is divided by it while the store is away."
)
REGION = Option(
    name="region",
    help="Name of this region, for logs.",
    parse=values.parse_text,
    default="",
    metavar="NAME",
    panel=RUNNING,
)
LOG_LEVEL = Option(
    name="log-level",
    help="error, warning, info or debug.",
    parse=values.parse_log_level,
    default=LogLevel.INFO,
    metavar="LEVEL",
    panel=RUNNING,
)
LOG_FORMAT = Option(
    name="log-format",
    help="text or json.",
    parse=values.parse_log_format,
    default=LogFormat.TEXT,
    metavar="FORMAT",
    panel=RUNNING,
)
METRICS_COMPAT = Option(
    name="metrics-compat",
    help="envoyproxy: export the reference server's metric names too.",
    parse=values.parse_metrics_compat,
    default=MetricsCompat.NONE,
    metavar="NAME",
    panel=RUNNING,
)
DRAIN_GRACE = _duration(
    "drain-grace", "How long calls in flight may take after SIGTERM.", 10_000_000, RUNNING
)

# Whatever is defined above, so that none can be forgotten.
OPTIONS: tuple[Option[object], ...] = tuple(
    value for value in tuple(globals().values()) if isinstance(value, Option)
)
