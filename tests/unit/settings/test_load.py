"""Settings come from flags, our variables and the reference server's, in that order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratelimitd.errors import ConfigError
from ratelimitd.settings.load import load_policy_settings, load_settings
from ratelimitd.settings.model import Settings
from ratelimitd.settings.options import OPTIONS
from ratelimitd.settings.values import DataPlane, LogLevel, MetricsCompat
from ratelimitd.store.address import Endpoint, StoreKind, Tls
from ratelimitd.telemetry.logs import LogFormat
from ratelimitd.transport.listen import TcpAddress, TlsFiles, UnixAddress

LEAST = {"policy": "/policy", "store": "redis://redis:6379"}

Read = Callable[[Settings], Any]


def store_tls(settings: Settings) -> Tls:
    """Return how the store's certificate is checked."""
    assert settings.store.address.tls is not None
    return settings.store.address.tls


# One row for each flag: a text, what it becomes, and a text that is refused (None: any is taken).
FLAGS: dict[str, tuple[str, Read, object, str | None]] = {
    "policy": ("/p", lambda s: s.policy.directory, Path("/p"), ""),
    "store": ("embedded", lambda s: s.store.address.kind, StoreKind.EMBEDDED, "redis"),
    "data-dir": ("/data", lambda s: s.store.data_dir, Path("/data"), ""),
    "grpc": ("[::1]:1", lambda s: s.listen.grpc, TcpAddress("::1", 1), "x"),
    "http": ("unix:/h", lambda s: s.listen.http, UnixAddress("/h"), "x"),
    "admin": ("[::1]:2", lambda s: s.listen.admin, TcpAddress("::1", 2), "x"),
    "insecure-admin": ("true", lambda s: s.warnings, (), "maybe"),
    "metrics": (":9090", lambda s: s.listen.metrics, TcpAddress("0.0.0.0", 9090), "x"),
    "metrics-path": ("/m", lambda s: s.listen.metrics_path, "/m", "m"),
    "connection-age": ("2s", lambda s: s.listen.connection_age_ms, 2000, "2"),
    "connection-age-grace": ("3s", lambda s: s.listen.connection_age_grace_ms, 3000, "3"),
    "grpc-tls-cert": ("/c", lambda s: s.listen.tls and s.listen.tls.certificate, Path("/c"), ""),
    "grpc-tls-key": ("/k", lambda s: s.listen.tls and s.listen.tls.key, Path("/k"), ""),
    "grpc-client-ca": ("/a", lambda s: s.listen.tls and s.listen.tls.client_ca, Path("/a"), ""),
    "grpc-client-san": ("a, b", lambda s: s.listen.client_sans, ("a", "b"), "a,,b"),
    "ignore-dot-files": ("false", lambda s: s.policy.is_ignoring_dot_files, False, "no"),
    "merge-domains": ("true", lambda s: s.policy.is_merging_domains, True, "yes"),
    "count-only-admitted": ("true", lambda s: s.policy.counts_denied, False, "yes"),
    "start-without-policy": ("true", lambda s: s.policy.can_start_without, True, "yes"),
    "healthy-with-policy": ("true", lambda s: s.policy.is_health, True, "yes"),
    "store-password-file": (
        "/pw",
        lambda s: s.store.address.credentials.password_file,
        Path("/pw"),
        "",
    ),
    "store-ca": ("/ca", lambda s: store_tls(s).ca_file, Path("/ca"), ""),
    "store-cert": ("/c", lambda s: store_tls(s).certificate_file, Path("/c"), ""),
    "store-key": ("/k", lambda s: store_tls(s).key_file, Path("/k"), ""),
    "store-any-hostname": ("true", lambda s: store_tls(s).checks_hostname, False, "yes"),
    "store-timeout": ("1s", lambda s: s.store.timeout_s, 1.0, "1"),
    "healthy-with-store": ("true", lambda s: s.store.is_health, True, "yes"),
    "key-prefix": ("p", lambda s: s.decisions.key_prefix, "p", None),
    "hash-secret-file": ("/s", lambda s: s.store.hash_secret_file, Path("/s"), ""),
    "embedded-memory-bytes": (
        "9000000",
        lambda s: s.store.embedded_memory_bytes,
        9_000_000,
        "8388607",
    ),
    "deny-cache-bytes": ("4096", lambda s: s.store.deny_cache_bytes, 4096, "-1"),
    "shadow-mode": ("true", lambda s: s.decisions.is_shadow_mode, True, "yes"),
    "quota-mode": ("true", lambda s: s.decisions.is_quota_mode, True, "yes"),
    "dynamic-metadata": ("true", lambda s: s.decisions.has_dynamic_metadata, True, "yes"),
    "limit-headers": ("true", lambda s: s.decisions.has_limit_headers, True, "yes"),
    "limit-header": ("X-L", lambda s: s.decisions.limit_header, "X-L", "X L"),
    "remaining-header": ("X-R", lambda s: s.decisions.remaining_header, "X-R", "X:R"),
    "reset-header": ("X-T", lambda s: s.decisions.reset_header, "X-T", ""),
    "near-limit-ratio": ("0.5", lambda s: s.decisions.near_limit_ratio, 0.5, "1.5"),
    "default-deadline": ("2s", lambda s: s.default_deadline_s, 2.0, "2"),
    "workers": ("4", lambda s: (s.workers, s.decisions.local_share), (4, 4), "0"),
    "data-plane": ("h2", lambda s: s.data_plane, DataPlane.H2, "http2"),
    "replicas": ("3", lambda s: (s.replicas, s.decisions.local_share), (3, 3), "0"),
    "region": ("eu", lambda s: s.region, "eu", None),
    "log-level": ("debug", lambda s: s.log.level, LogLevel.DEBUG, "loud"),
    "log-format": ("json", lambda s: s.log.format, LogFormat.JSON, "xml"),
    "metrics-compat": ("envoyproxy", lambda s: s.metrics_compat, MetricsCompat.ENVOYPROXY, "no"),
    "drain-grace": ("5s", lambda s: s.listen.drain_grace_s, 5.0, "5"),
}
# What some flags need beside them to make sense.
BESIDE = {
    "workers": {"data-plane": "h2"},
    "grpc-tls-cert": {"grpc-tls-key": "/k"},
    "grpc-tls-key": {"grpc-tls-cert": "/c"},
    "grpc-client-ca": {"grpc-tls-cert": "/c", "grpc-tls-key": "/k"},
    "grpc-client-san": {"grpc-tls-cert": "/c", "grpc-tls-key": "/k", "grpc-client-ca": "/a"},
    "store-ca": {"store": "rediss://redis"},
    "store-cert": {"store": "rediss://redis", "store-key": "/k"},
    "store-key": {"store": "rediss://redis", "store-cert": "/c"},
    "store-any-hostname": {"store": "rediss://redis"},
}


def problems(flags: dict[str, str], environ: dict[str, str]) -> list[str]:
    """Return the lines that the settings are refused with."""
    with pytest.raises(ConfigError) as caught:
        load_settings(flags, environ)
    return str(caught.value).splitlines()


def variable(name: str) -> str:
    """Return the variable of a flag."""
    return "RATELIMITD_" + name.replace("-", "_").upper()


def test_every_flag_is_tested() -> None:
    assert set(FLAGS) == {option.name for option in OPTIONS}


@pytest.mark.parametrize("name", sorted(set(FLAGS) - {"key-prefix", "region"}))
def test_empty_flag_is_one_line(name: str) -> None:
    flags = {**LEAST, **BESIDE.get(name, {}), name: ""}

    (line,) = problems(flags, {})

    assert line.startswith(f"--{name}: ")


@pytest.mark.parametrize("name", ["key-prefix", "region"])
def test_flag_that_may_be_empty_is_read(name: str) -> None:
    _, read, _, _ = FLAGS[name]

    assert read(load_settings({**LEAST, name: ""}, {})) == ""


@pytest.mark.parametrize("name", FLAGS)
def test_flag_is_read(name: str) -> None:
    text, read, expected, _ = FLAGS[name]

    assert read(load_settings({**LEAST, **BESIDE.get(name, {}), name: text}, {})) == expected


@pytest.mark.parametrize("name", FLAGS)
def test_variable_is_read_as_its_flag(name: str) -> None:
    text, read, expected, _ = FLAGS[name]
    flags = {**LEAST, **BESIDE.get(name, {})}
    flags.pop(name, None)

    assert read(load_settings(flags, {variable(name): text})) == expected


@pytest.mark.parametrize("name", FLAGS)
def test_flag_wins_over_its_variable(name: str) -> None:
    text, read, expected, bad = FLAGS[name]
    flags = {**LEAST, **BESIDE.get(name, {}), name: text}

    assert read(load_settings(flags, {variable(name): bad or "other"})) == expected


@pytest.mark.parametrize("name", [name for name in FLAGS if FLAGS[name][3] is not None])
def test_bad_value_is_one_line_that_names_flag_or_variable(name: str) -> None:
    bad = FLAGS[name][3]
    assert bad is not None
    flags = {**LEAST, **BESIDE.get(name, {})}

    (line,) = problems({**flags, name: bad}, {})
    assert line.startswith(f"--{name}: ")

    flags.pop(name, None)
    if bad:
        (line,) = problems(flags, {variable(name): bad})
        assert line.startswith(f"{variable(name)}: ")


def test_defaults_are_the_reference_servers_ports() -> None:
    settings = load_settings(LEAST, {})

    assert str(settings.listen.grpc) == "0.0.0.0:8081"
    assert str(settings.listen.http) == "0.0.0.0:8080"
    assert str(settings.listen.admin) == "127.0.0.1:8082"
    assert settings.listen.tls is None
    assert settings.warnings == ()


def test_empty_variables_count_as_unset() -> None:
    environ = {variable(name): "" for name in FLAGS} | {"REDIS_URL": "", "GRPC_PORT": ""}

    assert load_settings(LEAST, environ) == load_settings(LEAST, {})


def test_store_and_policy_are_asked_for_together() -> None:
    policy, store = problems({}, {})

    assert policy.startswith("--policy is missing")
    assert store.startswith("--store is missing")
    assert "allow every limit once each" in store


def test_all_problems_are_told_at_once() -> None:
    lines = problems({**LEAST, "grpc": "x", "log-level": "y"}, {"RATELIMITD_WORKERS": "z"})

    assert [line.split(":")[0] for line in lines] == ["--grpc", "--log-level", "RATELIMITD_WORKERS"]


def test_more_workers_are_refused_where_only_one_can_answer() -> None:
    (line,) = problems({**LEAST, "workers": "4", "data-plane": "grpcio"}, {})

    assert line == ("--workers: 4 processes need --data-plane h2; with grpcio one process answers")


def test_local_share_is_that_of_one_worker_of_one_replica() -> None:
    flags = {**LEAST, "workers": "4", "replicas": "3", "data-plane": "h2"}

    assert load_settings(flags, {}).decisions.local_share == 12


@pytest.mark.parametrize("address", ["0.0.0.0:8082", "[::]:8082", "10.0.0.1:8082", "host:1"])
def test_admin_refuses_what_others_can_reach(address: str) -> None:
    (line,) = problems({**LEAST, "admin": address}, {})

    assert line.startswith(f"--admin: {address} can be reached by others")
    assert "--insecure-admin" in line


def test_insecure_admin_warns() -> None:
    settings = load_settings({**LEAST, "admin": "0.0.0.0:8082", "insecure-admin": "true"}, {})

    (warning,) = settings.warnings
    assert "asks nobody who they are" in warning


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"grpc-tls-cert": "/c"}, "--grpc-tls-cert needs --grpc-tls-key"),
        ({"grpc-tls-key": "/k"}, "--grpc-tls-key needs --grpc-tls-cert"),
        ({"grpc-client-ca": "/a"}, "--grpc-client-ca needs --grpc-tls-cert and --grpc-tls-key"),
        ({"store-cert": "/c", "store": "rediss://r"}, "--store-cert needs --store-key"),
    ],
)
def test_half_of_a_pair_is_refused(flags: dict[str, str], line: str) -> None:
    (found,) = problems({**LEAST, **flags}, {})

    assert found.startswith(line)


def test_names_without_an_authority_are_refused() -> None:
    flags = {**LEAST, "grpc-tls-cert": "/c", "grpc-tls-key": "/k", "grpc-client-san": "a"}

    (line,) = problems(flags, {})

    assert line.startswith("--grpc-client-san needs --grpc-client-ca")


def test_no_text_shows_a_password() -> None:
    url = "redis://user:hunter2@redis:6379"

    settings = load_settings({**LEAST, "store": url}, {"REDIS_AUTH": "hunter2"})
    lines = problems({**LEAST, "store": "redis://user:hunter2@redis:bad"}, {})

    assert "hunter2" not in repr(settings)
    assert "hunter2" not in "\n".join(lines)
    assert settings.store.address.credentials.password == "hunter2"


def test_unknown_variable_of_ours_is_a_warning_and_a_kubernetes_link_is_not() -> None:
    environ = {
        "RATELIMITD_LOGLEVEL": "debug",
        "RATELIMITD_SERVICE_HOST": "10.0.0.1",
        "RATELIMITD_SERVICE_PORT_GRPC": "8081",
        "RATELIMITD_PORT": "tcp://10.0.0.1:8081",
        "RATELIMITD_PORT_8081_TCP_ADDR": "10.0.0.1",
    }

    assert load_settings(LEAST, environ).warnings == (
        "RATELIMITD_LOGLEVEL is set and has no effect: there is no such variable",
    )


def test_policy_settings_need_no_store() -> None:
    settings = load_policy_settings({"policy": "/p"}, {"MERGE_DOMAIN_CONFIG": "true"})

    assert settings.is_merging_domains
    with pytest.raises(ConfigError, match="MERGE_DOMAIN_CONFIG"):
        load_policy_settings({"policy": "/p"}, {"MERGE_DOMAIN_CONFIG": "maybe"})


def test_tls_files_and_endpoint_are_what_was_named() -> None:
    flags = {**LEAST, "grpc-tls-cert": "/c", "grpc-tls-key": "/k"}

    settings = load_settings(flags, {})

    assert settings.listen.tls == TlsFiles(certificate=Path("/c"), key=Path("/k"))
    assert settings.store.address.endpoints == (Endpoint(host="redis", port=6379),)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            {"grpc": ":9000", "http": ":9000"},
            "--grpc and --http are both 0.0.0.0:9000; give each a port of its own",
        ),
        (
            {"http": "unix:/a", "admin": "unix:/a"},
            "--http and --admin are both unix:/a; give each a port of its own",
        ),
        (
            {"http": ":80", "admin": "127.0.0.1:80"},
            "--http (0.0.0.0:80) and --admin (127.0.0.1:80) overlap; give each a port of its own",
        ),
        (
            {"metrics": "[::]:8081"},
            "--grpc (0.0.0.0:8081) and --metrics ([::]:8081) overlap; give each a port of its own",
        ),
    ],
)
def test_two_ports_at_one_place_are_refused(flags: dict[str, str], line: str) -> None:
    assert problems({**LEAST, **flags}, {}) == [line]


@pytest.mark.parametrize(
    "flags",
    [
        {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0"},
        {"http": "0.0.0.0:9", "metrics": "[::1]:9"},
        {"http": "10.0.0.1:9", "metrics": "10.0.0.2:9"},
    ],
)
def test_ports_at_different_places_are_fine(flags: dict[str, str]) -> None:
    load_settings({**LEAST, **flags}, {})


def test_variable_that_is_not_utf8_is_one_line() -> None:
    environ = {"RATELIMITD_REGION": "\udcff", "REDIS_URL": "\udcff", "ELSEWHERE": "\udcff"}

    assert problems(LEAST, environ) == [
        "RATELIMITD_REGION: is not UTF-8",
        "REDIS_URL: is not UTF-8",
    ]


def test_store_timeout_that_no_store_can_keep_is_refused() -> None:
    (line,) = problems({**LEAST, "store-timeout": "4999us"}, {})

    assert line.startswith("--store-timeout: '4999us' is not accepted: write at least 5ms")
    assert load_settings({**LEAST, "store-timeout": "5ms"}, {}).store.timeout_s == 0.005


def test_default_is_shown_as_it_is_typed() -> None:
    shown = {option.name: option.default_text for option in OPTIONS}

    assert shown["store-timeout"] == "250ms"
    assert shown["connection-age"] == "24h"
    assert shown["data-dir"] == "/var/lib/ratelimitd"
    assert shown["ignore-dot-files"] == "on"
    assert shown["shadow-mode"] == shown["region"] == shown["store"] == ""
    for option in OPTIONS:
        if option.default_text and not option.is_switch:
            assert option.parse(option.default_text) == option.default
