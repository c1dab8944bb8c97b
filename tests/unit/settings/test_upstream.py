"""Every variable of the reference server is honoured, refused or named in a warning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratelimitd.settings.load import load_settings
from ratelimitd.settings.model import Settings
from ratelimitd.settings.upstream_table import UPSTREAM_BY_NAME, UPSTREAM_VARIABLES, Fate
from ratelimitd.settings.values import LogLevel, MetricsCompat
from ratelimitd.store.address import Endpoint, StoreKind
from ratelimitd.telemetry.logs import LogFormat
from ratelimitd.transport.listen import TcpAddress, TlsFiles, UnixAddress
from tests.unit.settings.test_load import problems, store_tls

FLAGS = {"policy": "/policy"}
STORE = {"REDIS_URL": "redis:6379", "REDIS_SOCKET_TYPE": "tcp"}
TLS = {
    "GRPC_SERVER_USE_TLS": "true",
    "GRPC_SERVER_TLS_CERT": "/c",
    "GRPC_SERVER_TLS_KEY": "/k",
}
STORE_TLS = {**STORE, "REDIS_TLS": "true"}

Read = Callable[[Settings], Any]


def grpc_tls(settings: Settings) -> TlsFiles:
    """Return the TLS files of the gRPC port."""
    assert settings.listen.tls is not None
    return settings.listen.tls


# One row for each honoured variable: what stands beside it, its text, and what it becomes.
HONOURED: dict[str, tuple[dict[str, str], str, Read, object]] = {
    "GRPC_HOST": ({}, "::1", lambda s: s.listen.grpc, TcpAddress("::1", 8081)),
    "GRPC_PORT": ({}, "9", lambda s: s.listen.grpc, TcpAddress("0.0.0.0", 9)),
    "GRPC_UDS": ({"GRPC_PORT": "9"}, "/g", lambda s: s.listen.grpc, UnixAddress("/g")),
    "HOST": ({}, "127.0.0.1", lambda s: s.listen.http, TcpAddress("127.0.0.1", 8080)),
    "PORT": ({"HOST": "h"}, "9", lambda s: s.listen.http, TcpAddress("h", 9)),
    "GRPC_MAX_CONNECTION_AGE": ({}, "1h", lambda s: s.listen.connection_age_ms, 3_600_000),
    "GRPC_MAX_CONNECTION_AGE_GRACE": ({}, "1m", lambda s: s.listen.connection_age_grace_ms, 60_000),
    "GRPC_SERVER_USE_TLS": (TLS, "t", lambda s: s.listen.tls is not None, True),
    "GRPC_SERVER_TLS_CERT": (TLS, "/x", lambda s: grpc_tls(s).certificate, Path("/x")),
    "GRPC_SERVER_TLS_KEY": (TLS, "/x", lambda s: grpc_tls(s).key, Path("/x")),
    "GRPC_CLIENT_TLS_CACERT": (TLS, "/a", lambda s: grpc_tls(s).client_ca, Path("/a")),
    "GRPC_CLIENT_TLS_SAN": (
        {**TLS, "GRPC_CLIENT_TLS_CACERT": "/a"},
        "envoy",
        lambda s: s.listen.client_sans,
        ("envoy",),
    ),
    "LOG_LEVEL": ({}, "WARN", lambda s: s.log.level, LogLevel.WARNING),
    "LOG_FORMAT": ({}, "json", lambda s: s.log.format, LogFormat.JSON),
    "RUNTIME_ROOT": ({}, "/r", lambda s: s.policy.directory, Path("/r/config")),
    "RUNTIME_SUBDIRECTORY": (
        {},
        "sub",
        lambda s: s.policy.directory,
        Path("/srv/runtime_data/current/sub/config"),
    ),
    "RUNTIME_APPDIRECTORY": (
        {"RUNTIME_ROOT": "/r/"},
        "app",
        lambda s: s.policy.directory,
        Path("/r/app"),
    ),
    "RUNTIME_WATCH_ROOT": ({}, "false", lambda s: s.warnings, ()),
    "RUNTIME_IGNOREDOTFILES": (
        {"RUNTIME_ROOT": "/r"},
        "true",
        lambda s: s.policy.is_ignoring_dot_files,
        True,
    ),
    "MERGE_DOMAIN_CONFIG": ({}, "true", lambda s: s.policy.is_merging_domains, True),
    "FORCE_START_WITHOUT_INITIAL_CONFIG": ({}, "1", lambda s: s.policy.can_start_without, True),
    "HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED": ({}, "1", lambda s: s.policy.is_health, True),
    "LOCAL_CACHE_SIZE_IN_BYTES": ({}, "1000000", lambda s: s.store.deny_cache_bytes, 1_000_000),
    "NEAR_LIMIT_RATIO": ({}, "0.9", lambda s: s.decisions.near_limit_ratio, 0.9),
    "CACHE_KEY_PREFIX": ({}, "p:", lambda s: s.decisions.key_prefix, "p:"),
    "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT": (
        {},
        "true",
        lambda s: s.policy.counts_denied,
        False,
    ),
    "SHADOW_MODE": ({}, "true", lambda s: s.decisions.is_shadow_mode, True),
    "QUOTA_MODE": ({}, "true", lambda s: s.decisions.is_quota_mode, True),
    "RESPONSE_DYNAMIC_METADATA": ({}, "1", lambda s: s.decisions.has_dynamic_metadata, True),
    "LIMIT_RESPONSE_HEADERS_ENABLED": ({}, "1", lambda s: s.decisions.has_limit_headers, True),
    "LIMIT_LIMIT_HEADER": ({}, "X-L", lambda s: s.decisions.limit_header, "X-L"),
    "LIMIT_REMAINING_HEADER": ({}, "X-R", lambda s: s.decisions.remaining_header, "X-R"),
    "LIMIT_RESET_HEADER": ({}, "X-T", lambda s: s.decisions.reset_header, "X-T"),
    "REDIS_SOCKET_TYPE": (
        {"REDIS_URL": "/r.sock"},
        "unix",
        lambda s: s.store.address.endpoints,
        (Endpoint(unix_path="/r.sock"),),
    ),
    "REDIS_URL": (
        {},
        "redis.example:7",
        lambda s: s.store.address.endpoints,
        (Endpoint(host="redis.example", port=7),),
    ),
    "REDIS_AUTH": (
        STORE,
        "bob:p@ss/w#rd:1",
        lambda s: (s.store.address.credentials.user, s.store.address.credentials.password),
        ("bob", "p@ss/w#rd:1"),
    ),
    "REDIS_TLS": (STORE, "true", lambda s: s.store.address.tls is not None, True),
    "REDIS_TLS_CLIENT_CERT": (
        {**STORE_TLS, "REDIS_TLS_CLIENT_KEY": "/k"},
        "/c",
        lambda s: store_tls(s).certificate_file,
        Path("/c"),
    ),
    "REDIS_TLS_CLIENT_KEY": (
        {**STORE_TLS, "REDIS_TLS_CLIENT_CERT": "/c"},
        "/k",
        lambda s: store_tls(s).key_file,
        Path("/k"),
    ),
    "REDIS_TLS_CACERT": (STORE_TLS, "/a", lambda s: store_tls(s).ca_file, Path("/a")),
    "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION": (
        STORE_TLS,
        "true",
        lambda s: store_tls(s).checks_hostname,
        False,
    ),
    "REDIS_HEALTH_CHECK_ACTIVE_CONNECTION": ({}, "true", lambda s: s.store.is_health, True),
    "USE_PROMETHEUS": ({}, "true", lambda s: s.listen.metrics, TcpAddress("0.0.0.0", 9090)),
    "PROMETHEUS_ADDR": (
        {"USE_PROMETHEUS": "true"},
        "127.0.0.1:1",
        lambda s: s.listen.metrics,
        TcpAddress("127.0.0.1", 1),
    ),
    "PROMETHEUS_PATH": ({"USE_PROMETHEUS": "true"}, "/m", lambda s: s.listen.metrics_path, "/m"),
    "METRICS_COMPAT": ({}, "envoyproxy", lambda s: s.metrics_compat, MetricsCompat.ENVOYPROXY),
}
# A value of the right form that is not accepted, for those that accept only some texts.
BAD = {
    "GRPC_PORT": "tcp://10.0.0.1:8081",
    "PORT": "x",
    "GRPC_UDS": "/" + "x" * 200,
    "GRPC_MAX_CONNECTION_AGE": "24",
    "GRPC_SERVER_USE_TLS": "yes",
    "LOG_LEVEL": "loud",
    "LOG_FORMAT": "xml",
    "RUNTIME_WATCH_ROOT": "no",
    "MERGE_DOMAIN_CONFIG": "no",
    "LOCAL_CACHE_SIZE_IN_BYTES": "1MB",
    "NEAR_LIMIT_RATIO": "80%",
    "SHADOW_MODE": "on",
    "LIMIT_LIMIT_HEADER": "a b",
    "REDIS_SOCKET_TYPE": "tls",
    "REDIS_TLS": "yes",
    "USE_PROMETHEUS": "yes",
}


def names(fate: Fate) -> list[str]:
    """Return the variables of one fate."""
    return [each.name for each in UPSTREAM_VARIABLES if each.fate is fate]


def test_every_honoured_variable_is_tested() -> None:
    assert set(HONOURED) == set(names(Fate.HONOURED))


@pytest.mark.parametrize("name", HONOURED)
def test_honoured_variable_means_what_it_meant(name: str) -> None:
    beside, text, read, expected = HONOURED[name]
    environ = {**STORE, "RUNTIME_ROOT": "/policy", **beside, name: text}
    if name == "RUNTIME_SUBDIRECTORY":
        del environ["RUNTIME_ROOT"]
    if name == "REDIS_URL":
        del environ["REDIS_SOCKET_TYPE"]

    assert read(load_settings({}, environ)) == expected


@pytest.mark.parametrize("name", BAD)
def test_bad_value_is_one_line_that_names_the_variable(name: str) -> None:
    (line,) = problems(FLAGS, {**STORE, name: BAD[name]})

    assert line.startswith(name)


def test_bad_port_says_what_a_port_is() -> None:
    assert problems(FLAGS, {**STORE, "GRPC_PORT": "abc"}) == [
        "GRPC_PORT=abc: write a whole number from 0 to 65535"
    ]


@pytest.mark.parametrize("name", HONOURED)
def test_honoured_variable_makes_no_warning(name: str) -> None:
    beside, text, _, _ = HONOURED[name]

    loaded = load_settings({}, {**STORE, "RUNTIME_ROOT": "/policy", **beside, name: text})

    assert loaded.warnings == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BACKEND_TYPE", "memcache"),
        ("CONFIG_TYPE", "GRPC_XDS_SOTW"),
        ("REDIS_TYPE", "SENTINEL"),
        ("REDIS_TYPE", "sentinel"),
    ],
)
def test_refused_variable_says_name_why_and_what_to_do(name: str, value: str) -> None:
    (line,) = problems(FLAGS, {**STORE, name: value})

    assert line.startswith(f"{name}={value}: ")
    assert UPSTREAM_BY_NAME[name].note in line
    assert "unset it" in line


def test_every_refused_variable_is_tested_and_has_a_harmless_value() -> None:
    assert set(names(Fate.REFUSED)) == {"BACKEND_TYPE", "CONFIG_TYPE", "REDIS_TYPE"}
    for name in names(Fate.REFUSED):
        for value in UPSTREAM_BY_NAME[name].harmless:
            assert load_settings(FLAGS, {**STORE, name: value}).warnings == ()


@pytest.mark.parametrize("name", names(Fate.IGNORED))
def test_ignored_variable_is_one_warning_with_its_reason(name: str) -> None:
    (warning,) = load_settings(FLAGS, {**STORE, name: "secret-9"}).warnings

    assert warning == f"{name} is set and has no effect: {UPSTREAM_BY_NAME[name].note}"


@pytest.mark.parametrize(
    "name", [name for name in names(Fate.IGNORED) if UPSTREAM_BY_NAME[name].harmless]
)
def test_ignored_variable_that_is_off_is_no_warning(name: str) -> None:
    assert load_settings(FLAGS, {**STORE, name: "false"}).warnings == ()


def test_ours_wins_over_the_reference_servers_and_a_flag_over_both() -> None:
    environ = {**STORE, "LOG_LEVEL": "error", "RATELIMITD_LOG_LEVEL": "debug"}

    assert load_settings(FLAGS, environ).log.level is LogLevel.DEBUG
    assert load_settings({**FLAGS, "log-level": "info"}, environ).log.level is LogLevel.INFO


def test_redis_password_without_a_user_is_for_the_default_user() -> None:
    loaded = load_settings(FLAGS, {**STORE, "REDIS_AUTH": "secret"})

    assert loaded.store.address.credentials.user == ""
    assert loaded.store.address.credentials.password == "secret"


def test_redis_url_that_is_a_path_is_a_unix_socket_without_being_told() -> None:
    loaded = load_settings(FLAGS, {"REDIS_URL": "/run/redis.sock"})

    assert loaded.store.address.endpoints == (Endpoint(unix_path="/run/redis.sock"),)


def test_redis_cluster_has_all_its_seeds() -> None:
    loaded = load_settings(FLAGS, {"REDIS_URL": "a:1,b:2", "REDIS_TYPE": "cluster"})

    assert loaded.store.address.kind is StoreKind.CLUSTER
    assert [str(each) for each in loaded.store.address.endpoints] == ["a:1", "b:2"]


def test_redis_credentials_are_never_sent_to_the_store_of_a_flag() -> None:
    environ = {**STORE_TLS, "REDIS_AUTH": "secret", "REDIS_TLS_CACERT": "/a"}

    loaded = load_settings({**FLAGS, "store": "redis://other"}, environ)

    assert loaded.store.address.credentials.password == ""
    assert loaded.store.address.tls is None
    assert loaded.warnings == tuple(
        f"{name} has no effect: the store is named by --store"
        for name in ("REDIS_AUTH", "REDIS_TLS", "REDIS_TLS_CACERT")
    )


def test_tls_files_without_use_tls_leave_the_port_as_it_was_and_say_so() -> None:
    environ = {**STORE, **TLS, "GRPC_SERVER_USE_TLS": "false", "GRPC_CLIENT_TLS_CACERT": "/a"}

    loaded = load_settings(FLAGS, environ)

    assert loaded.listen.tls is None
    (warning,) = loaded.warnings
    assert warning.startswith("GRPC_CLIENT_TLS_CACERT is set but GRPC_SERVER_USE_TLS is not true")


def test_use_tls_without_files_is_refused() -> None:
    (line,) = problems(FLAGS, {**STORE, "GRPC_SERVER_USE_TLS": "true"})

    assert "GRPC_SERVER_TLS_CERT and GRPC_SERVER_TLS_KEY are not set" in line


def test_empty_appdirectory_means_the_directory_itself() -> None:
    environ = {**STORE, "RUNTIME_ROOT": "/r", "RUNTIME_SUBDIRECTORY": "s"}

    loaded = load_settings({}, {**environ, "RUNTIME_APPDIRECTORY": ""})

    assert loaded.policy.directory == Path("/r/s")


def test_dot_files_are_read_where_the_reference_server_reads_them() -> None:
    assert load_settings(FLAGS, STORE).policy.is_ignoring_dot_files
    runtime = load_settings({}, {**STORE, "RUNTIME_ROOT": "/r"})
    assert not runtime.policy.is_ignoring_dot_files
    flag = load_settings(FLAGS, {**STORE, "RUNTIME_ROOT": "/r"})
    assert flag.policy.is_ignoring_dot_files


def test_persecond_redis_is_a_warning() -> None:
    environ = {**STORE, "REDIS_PERSECOND": "true", "REDIS_PERSECOND_URL": "other:1"}

    assert len(load_settings(FLAGS, environ).warnings) == 2
