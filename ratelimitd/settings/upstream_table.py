"""Every environment variable of the reference server, and what becomes of it here.

Rules:
- HONOURED: it means here what it meant there. `option` names ours where the two are the same
  thing; the others are put together in upstream.py.
- REFUSED: it changes what is enforced, where it is counted or who may call, and we cannot do
  it. Set to anything but a value of `harmless`, it stops the start.
- IGNORED: nothing enforced depends on it. Set to anything but a value of `harmless`, it is
  named in a warning.
- `note` says why and what to do; it is shown to the operator and stands in docs/migration.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ratelimitd.settings import options
from ratelimitd.settings.option import Option
from ratelimitd.settings.values import FALSE_TEXTS


class Fate(StrEnum):
    """What becomes of a variable."""

    HONOURED = "honoured"
    REFUSED = "refused"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class UpstreamVariable:
    """One variable of the reference server."""

    name: str
    fate: Fate
    note: str
    option: Option[object] | None = None
    harmless: frozenset[str] = frozenset()


def _same(name: str, option: Option[object], note: str = "") -> UpstreamVariable:
    return UpstreamVariable(name, Fate.HONOURED, note or f"as `{option.flag}`", option)


def _honoured(name: str, note: str) -> UpstreamVariable:
    return UpstreamVariable(name, Fate.HONOURED, note)


def _refused(name: str, note: str, *harmless: str) -> UpstreamVariable:
    return UpstreamVariable(name, Fate.REFUSED, note, None, frozenset(harmless))


def _ignored(
    names: str, note: str, harmless: frozenset[str] = frozenset()
) -> tuple[UpstreamVariable, ...]:
    return tuple(
        UpstreamVariable(name, Fate.IGNORED, note, None, harmless) for name in names.split()
    )


_NO_XDS = "xDS is not implemented; it has no effect with CONFIG_TYPE=FILE"
_NO_MEMCACHE = "memcache is not implemented; it has no effect with BACKEND_TYPE=redis"
_NO_PERSECOND = (
    "limits per second are counted in the one store; the atomic decision over all limits of a "
    "request needs them together"
)
_NO_POOL = "there is no pool to size: one connection carries batches"
_NO_STATSD = "there is no statsd sink; scrape /metrics of the HTTP port"
_NO_TRACING = "tracing is not implemented yet"
_NO_STARTUP = "the daemon starts without its store and connects as soon as it can"

UPSTREAM_VARIABLES: tuple[UpstreamVariable, ...] = (
    # Listening
    _honoured("GRPC_HOST", "host of `--grpc`"),
    _honoured("GRPC_PORT", "port of `--grpc`"),
    _honoured("GRPC_UDS", "`--grpc unix:PATH`; the TCP port is not opened then"),
    _honoured("HOST", "host of `--http`"),
    _honoured("PORT", "port of `--http`"),
    *_ignored(
        "DEBUG_HOST DEBUG_PORT",
        "there is no debug port; /rlconfig, /policy and /metrics are on the HTTP port",
    ),
    _same("GRPC_MAX_CONNECTION_AGE", options.CONNECTION_AGE),
    _same("GRPC_MAX_CONNECTION_AGE_GRACE", options.CONNECTION_AGE_GRACE),
    _honoured("GRPC_SERVER_USE_TLS", "the gRPC port speaks TLS with the two files below"),
    _honoured("GRPC_SERVER_TLS_CERT", "as `--grpc-tls-cert`, if GRPC_SERVER_USE_TLS is true"),
    _honoured("GRPC_SERVER_TLS_KEY", "as `--grpc-tls-key`, if GRPC_SERVER_USE_TLS is true"),
    _honoured("GRPC_CLIENT_TLS_CACERT", "as `--grpc-client-ca`, if GRPC_SERVER_USE_TLS is true"),
    _honoured("GRPC_CLIENT_TLS_SAN", "as `--grpc-client-san`, if GRPC_SERVER_USE_TLS is true"),
    # Logs
    _same("LOG_LEVEL", options.LOG_LEVEL, "as `--log-level`; panic and fatal mean error"),
    _same("LOG_FORMAT", options.LOG_FORMAT),
    # Policy
    _refused("CONFIG_TYPE", "xDS is not implemented; mount the files and set --policy", "FILE"),
    _honoured("RUNTIME_ROOT", "`--policy` is ROOT/SUBDIRECTORY/APPDIRECTORY"),
    _honoured("RUNTIME_SUBDIRECTORY", "see RUNTIME_ROOT"),
    _honoured("RUNTIME_APPDIRECTORY", "see RUNTIME_ROOT; `config` if it is not set"),
    _honoured("RUNTIME_WATCH_ROOT", "both kinds of change are seen, whatever it says"),
    _same("RUNTIME_IGNOREDOTFILES", options.IGNORE_DOT_FILES),
    _same("MERGE_DOMAIN_CONFIG", options.MERGE_DOMAINS),
    _same("FORCE_START_WITHOUT_INITIAL_CONFIG", options.START_WITHOUT_POLICY),
    _same("HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED", options.HEALTHY_WITH_POLICY),
    *_ignored(
        "CONFIG_GRPC_XDS_NODE_ID CONFIG_GRPC_XDS_NODE_METADATA CONFIG_GRPC_XDS_SERVER_URL "
        "CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS "
        "CONFIG_GRPC_XDS_SERVER_USE_TLS CONFIG_GRPC_XDS_CLIENT_TLS_CERT "
        "CONFIG_GRPC_XDS_CLIENT_TLS_KEY CONFIG_GRPC_XDS_SERVER_TLS_CACERT "
        "CONFIG_GRPC_XDS_SERVER_TLS_SAN XDS_CLIENT_BACKOFF_INITIAL_INTERVAL "
        "XDS_CLIENT_BACKOFF_MAX_INTERVAL XDS_CLIENT_BACKOFF_RANDOM_FACTOR "
        "XDS_CLIENT_BACKOFF_JITTER XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES",
        _NO_XDS,
    ),
    # Limits
    _refused("BACKEND_TYPE", "only Redis and Valkey are spoken; set REDIS_URL", "redis"),
    *_ignored("EXPIRATION_JITTER_MAX_SECONDS", "keys expire with their window, without jitter"),
    _same("LOCAL_CACHE_SIZE_IN_BYTES", options.DENY_CACHE_BYTES),
    _same("NEAR_LIMIT_RATIO", options.NEAR_LIMIT_RATIO),
    _same("CACHE_KEY_PREFIX", options.KEY_PREFIX, "as `--key-prefix`; the keys are others"),
    _same("STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT", options.COUNT_ONLY_ADMITTED),
    _same("SHADOW_MODE", options.SHADOW_MODE),
    _same("QUOTA_MODE", options.QUOTA_MODE),
    _same("RESPONSE_DYNAMIC_METADATA", options.DYNAMIC_METADATA),
    _same("LIMIT_RESPONSE_HEADERS_ENABLED", options.LIMIT_HEADERS),
    _same("LIMIT_LIMIT_HEADER", options.LIMIT_HEADER),
    _same("LIMIT_REMAINING_HEADER", options.REMAINING_HEADER),
    _same("LIMIT_RESET_HEADER", options.RESET_HEADER),
    # Redis
    _honoured("REDIS_SOCKET_TYPE", "tcp or unix; without it the form of REDIS_URL decides"),
    _refused(
        "REDIS_TYPE",
        "Sentinel is not implemented; name the master in REDIS_URL",
        "SINGLE",
        "CLUSTER",
    ),
    _honoured("REDIS_URL", "`--store`: host:port, the path of a unix socket, or a URL"),
    _honoured(
        "REDIS_AUTH", "password or user:password of REDIS_URL's store, also if that is a URL"
    ),
    _honoured("REDIS_TLS", "TLS to REDIS_URL's store; `redis://` becomes `rediss://`"),
    _honoured("REDIS_TLS_CLIENT_CERT", "as `--store-cert`, if REDIS_URL's store has TLS"),
    _honoured("REDIS_TLS_CLIENT_KEY", "as `--store-key`, if REDIS_URL's store has TLS"),
    _honoured("REDIS_TLS_CACERT", "as `--store-ca`, if REDIS_URL's store has TLS"),
    _honoured(
        "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION",
        "as `--store-any-hostname`, if REDIS_URL's store has TLS",
    ),
    _same("REDIS_HEALTH_CHECK_ACTIVE_CONNECTION", options.HEALTHY_WITH_STORE),
    *_ignored("REDIS_SENTINEL_AUTH", "Sentinel is not implemented"),
    *_ignored(
        "REDIS_POOL_SIZE REDIS_POOL_ON_EMPTY_BEHAVIOR REDIS_PIPELINE_WINDOW REDIS_PIPELINE_LIMIT "
        "REDIS_CLUSTER_PIPELINE_PARALLELISM",
        _NO_POOL,
    ),
    *_ignored("REDIS_TIMEOUT", "dialling and answering are bounded by --store-timeout"),
    *_ignored(
        "REDIS_STARTUP_INITIAL_INTERVAL REDIS_STARTUP_MAX_INTERVAL REDIS_STARTUP_MAX_ELAPSED_TIME",
        _NO_STARTUP,
    ),
    *_ignored("REDIS_PERSECOND", _NO_PERSECOND, FALSE_TEXTS),
    *_ignored(
        "REDIS_PERSECOND_SOCKET_TYPE REDIS_PERSECOND_TYPE REDIS_PERSECOND_URL "
        "REDIS_PERSECOND_AUTH REDIS_PERSECOND_SENTINEL_AUTH REDIS_PERSECOND_POOL_SIZE "
        "REDIS_PERSECOND_TLS REDIS_PERSECOND_TIMEOUT REDIS_PERSECOND_PIPELINE_WINDOW "
        "REDIS_PERSECOND_PIPELINE_LIMIT REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR",
        _NO_PERSECOND,
    ),
    # Memcache
    *_ignored(
        "MEMCACHE_HOST_PORT MEMCACHE_SRV MEMCACHE_SRV_REFRESH MEMCACHE_MAX_IDLE_CONNS "
        "MEMCACHE_TLS MEMCACHE_TLS_CLIENT_CERT MEMCACHE_TLS_CLIENT_KEY MEMCACHE_TLS_CACERT "
        "MEMCACHE_TLS_SKIP_HOSTNAME_VERIFICATION",
        _NO_MEMCACHE,
    ),
    # Metrics
    _honoured("USE_PROMETHEUS", "opens the port of PROMETHEUS_ADDR; /metrics is always there too"),
    _honoured("PROMETHEUS_ADDR", "as `--metrics`, if USE_PROMETHEUS is true; `:9090` if not set"),
    _honoured("PROMETHEUS_PATH", "as `--metrics-path`, if USE_PROMETHEUS is true"),
    *_ignored("PROMETHEUS_MAPPER_YAML", "labels come from the policy; nothing is mapped"),
    *_ignored("PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS", "durations are in seconds", FALSE_TEXTS),
    _same("METRICS_COMPAT", options.METRICS_COMPAT, "as `--metrics-compat` (a variable of ours)"),
    *_ignored("USE_STATSD USE_DOG_STATSD", _NO_STATSD, FALSE_TEXTS),
    *_ignored(
        "STATSD_HOST STATSD_PORT EXTRA_TAGS DOG_STATSD_MOGRIFIERS STATS_FLUSH_INTERVAL",
        _NO_STATSD,
    ),
    *_ignored("DISABLE_STATS", "metrics cost nothing until they are scraped", FALSE_TEXTS),
    # Tracing
    *_ignored("TRACING_ENABLED", _NO_TRACING, FALSE_TEXTS),
    *_ignored(
        "TRACING_SERVICE_NAME TRACING_SERVICE_NAMESPACE TRACING_SERVICE_INSTANCE_ID "
        "TRACING_EXPORTER_PROTOCOL TRACING_SAMPLING_RATE",
        _NO_TRACING,
    ),
)

UPSTREAM_BY_NAME: Mapping[str, UpstreamVariable] = {each.name: each for each in UPSTREAM_VARIABLES}
assert len(UPSTREAM_BY_NAME) == len(UPSTREAM_VARIABLES), "a variable stands twice in the table"
