"""Flags, our variables and the reference server's become one Settings value.

All problems are told at once, one line for each; a secret is never repeated.
"""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.errors import ConfigError
from ratelimitd.settings import options
from ratelimitd.settings.model import (
    ListenSettings,
    LogSettings,
    PolicySettings,
    Settings,
    StoreSettings,
)
from ratelimitd.settings.option import Option
from ratelimitd.settings.options import OPTIONS
from ratelimitd.settings.sources import Values, collect
from ratelimitd.settings.upstream import Text
from ratelimitd.settings.upstream_table import UPSTREAM_BY_NAME
from ratelimitd.settings.values import DataPlane
from ratelimitd.store.address import AddressOptions, parse_address
from ratelimitd.transport.listen import ListenAddress, TlsFiles, UnixAddress, is_private

_STORE_IS_MISSING = (
    "--store is missing: name the Redis or Valkey that all daemons share (or set REDIS_URL); "
    "daemons with a store each would allow every limit once each; for a single daemon: "
    "--store embedded"
)


def load_settings(flags: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    """Return the settings that `flags` (texts by option name) and `environ` give.

    Raises ConfigError with one line per problem.
    """
    unknown = flags.keys() - {option.name for option in OPTIONS}
    assert not unknown, f"flags without an option: {unknown}"
    given = collect(flags, environ)
    values, warnings = Values(given.texts, given.problems), given.warnings
    settings = _build(values, warnings)
    for option in OPTIONS:
        values.get(option)
    if values.problems:
        raise ConfigError("\n".join(dict.fromkeys(values.problems)))
    assert settings is not None, "settings that cannot be built have a problem"
    return settings


def load_policy_settings(flags: Mapping[str, str], environ: Mapping[str, str]) -> PolicySettings:
    """Return only how policy files are read, for who serves nothing; ConfigError as above."""
    values = Values(collect(flags, environ).texts, [])
    policy = _policy(values)
    if policy is None or values.problems:
        raise ConfigError("\n".join(dict.fromkeys(values.problems)))
    return policy


def _build(values: Values, warnings: list[str]) -> Settings | None:
    policy = _policy(values)
    store = _store(values)
    listen = _listen(values, warnings)
    log = LogSettings(level=values.get(options.LOG_LEVEL), format=values.get(options.LOG_FORMAT))
    workers = values.get(options.WORKERS)
    data_plane = values.get(options.DATA_PLANE)
    if workers > 1 and data_plane is not DataPlane.H2:
        values.problems.append(
            f"{values.source(options.WORKERS)}: {workers} processes need {options.DATA_PLANE.flag} "
            f"{DataPlane.H2}; with {DataPlane.GRPCIO} one process answers"
        )
    replicas = values.get(options.REPLICAS)
    default_deadline_s = values.get(options.DEFAULT_DEADLINE) / 1e6
    region = values.get(options.REGION)
    metrics_compat = values.get(options.METRICS_COMPAT)
    decisions = _decisions(values, workers * replicas)
    if policy is None or store is None:
        return None
    return Settings(
        policy=policy,
        store=store,
        listen=listen,
        log=log,
        decisions=decisions,
        default_deadline_s=default_deadline_s,
        workers=workers,
        data_plane=data_plane,
        replicas=replicas,
        region=region,
        metrics_compat=metrics_compat,
        warnings=tuple(warnings),
    )


def _policy(values: Values) -> PolicySettings | None:
    directory = values.get(options.POLICY)
    if directory is None:
        if not values.has(options.POLICY):
            values.problems.append(
                "--policy is missing: name the directory of the policy files "
                "(or set RATELIMITD_POLICY or RUNTIME_ROOT)"
            )
        return None
    # The reference server reads dot files unless it is told not to.
    is_upstream_default = values.source(options.POLICY) in UPSTREAM_BY_NAME and not values.has(
        options.IGNORE_DOT_FILES
    )
    return PolicySettings(
        directory=directory,
        is_ignoring_dot_files=values.get(options.IGNORE_DOT_FILES) and not is_upstream_default,
        is_merging_domains=values.get(options.MERGE_DOMAINS),
        counts_denied=not values.get(options.COUNT_ONLY_ADMITTED),
        can_start_without=values.get(options.START_WITHOUT_POLICY),
        is_health=values.get(options.HEALTHY_WITH_POLICY),
    )


def _store(values: Values) -> StoreSettings | None:
    url = values.get(options.STORE)
    known_problems = len(values.problems)
    _both(values, options.STORE_CERT, options.STORE_KEY)
    address_options = AddressOptions(
        password_file=values.get(options.STORE_PASSWORD_FILE),
        tls_ca_file=values.get(options.STORE_CA),
        tls_certificate_file=values.get(options.STORE_CERT),
        tls_key_file=values.get(options.STORE_KEY),
        skips_hostname_check=values.get(options.STORE_ANY_HOSTNAME),
    )
    timeout_us = values.get(options.STORE_TIMEOUT)
    data_dir = values.get(options.DATA_DIR)
    is_health = values.get(options.HEALTHY_WITH_STORE)
    deny_cache_bytes = values.get(options.DENY_CACHE_BYTES)
    hash_secret_file = values.get(options.HASH_SECRET_FILE)
    embedded_memory_bytes = values.get(options.EMBEDDED_MEMORY_BYTES)
    if not url:
        if not values.has(options.STORE):
            values.problems.append(_STORE_IS_MISSING)
        return None
    try:
        address = parse_address(url, address_options)
    except ConfigError as error:
        # What is wrong with an option was said; what follows from it needs no line of its own.
        if len(values.problems) == known_problems:
            values.problems.append(f"{values.source(options.STORE)}: {error}")
        return None
    return StoreSettings(
        address=address,
        data_dir=data_dir,
        timeout_s=timeout_us / 1e6,
        is_health=is_health,
        deny_cache_bytes=deny_cache_bytes,
        hash_secret_file=hash_secret_file,
        embedded_memory_bytes=embedded_memory_bytes,
    )


def _listen(values: Values, warnings: list[str]) -> ListenSettings:
    admin = values.get(options.ADMIN)
    if not is_private(admin):
        source = values.source(options.ADMIN)
        if values.get(options.INSECURE_ADMIN):
            warnings.append(
                f"{source}: {admin} can be reached by others and asks nobody who they are"
            )
        else:
            values.problems.append(
                f"{source}: {admin} can be reached by others and asks nobody who they are; use "
                "127.0.0.1:8082 or unix:PATH, or add --insecure-admin"
            )
    _check_places(values)
    return ListenSettings(
        grpc=values.get(options.GRPC),
        http=values.get(options.HTTP),
        admin=admin,
        metrics=values.get(options.METRICS),
        metrics_path=values.get(options.METRICS_PATH),
        tls=_tls(values),
        client_sans=values.get(options.GRPC_CLIENT_SAN),
        connection_age_ms=max(1, values.get(options.CONNECTION_AGE) // 1000),
        connection_age_grace_ms=max(1, values.get(options.CONNECTION_AGE_GRACE) // 1000),
        drain_grace_s=values.get(options.DRAIN_GRACE) / 1e6,
    )


def _check_places(values: Values) -> None:
    """Find two ports that would be opened at one place."""
    ports = (options.GRPC, options.HTTP, options.ADMIN, options.METRICS)
    places = [(values.source(port), values.get(port)) for port in ports]
    for (source, place), (other_source, other) in combinations(places, 2):
        if place is not None and other is not None and _overlap(place, other):
            values.problems.append(
                f"{source} and {other_source} are both {place}; give each a port of its own"
                if place == other
                else f"{source} ({place}) and {other_source} ({other}) overlap; "
                "give each a port of its own"
            )


def _overlap(one: ListenAddress, other: ListenAddress) -> bool:
    """Tell whether only one of both can be opened; an IPv6 :: also takes IPv4."""
    if isinstance(one, UnixAddress) or isinstance(other, UnixAddress):
        return one == other
    if one.port != other.port or one.port == 0:
        return False
    hosts = {one.host, other.host}
    is_ipv4 = not any(":" in host for host in hosts)
    return len(hosts) == 1 or "::" in hosts or (options.EVERY_ADDRESS in hosts and is_ipv4)


def _tls(values: Values) -> TlsFiles | None:
    certificate, key, client_ca, client_sans = (
        values.get(options.GRPC_TLS_CERT),
        values.get(options.GRPC_TLS_KEY),
        values.get(options.GRPC_CLIENT_CA),
        values.get(options.GRPC_CLIENT_SAN),
    )
    is_complete = _both(values, options.GRPC_TLS_CERT, options.GRPC_TLS_KEY)
    if client_sans and not values.has(options.GRPC_CLIENT_CA):
        values.problems.append(
            f"{values.source(options.GRPC_CLIENT_SAN)} needs {options.GRPC_CLIENT_CA.flag}: "
            "a name proves nothing without the authority that gave it"
        )
    if client_ca is not None and not values.has(options.GRPC_TLS_CERT) and is_complete:
        values.problems.append(
            f"{values.source(options.GRPC_CLIENT_CA)} needs {options.GRPC_TLS_CERT.flag} and "
            f"{options.GRPC_TLS_KEY.flag}: callers show a certificate only over TLS"
        )
    if certificate is None or key is None:
        return None
    return TlsFiles(certificate=certificate, key=key, client_ca=client_ca)


def _both(values: Values, one: Option[Path | None], other: Option[Path | None]) -> bool:
    """Tell whether both are given or none; one alone is a problem."""
    given = {option.name: values.texts.get(option.name) for option in (one, other)}
    match given[one.name], given[other.name]:
        case Text(source=source), None:
            values.problems.append(f"{source} needs {other.flag}: a certificate and its key")
        case None, Text(source=source):
            values.problems.append(f"{source} needs {one.flag}: a certificate and its key")
        case _:
            return True
    return False


def _decisions(values: Values, local_share: int) -> DecisionOptions:
    return DecisionOptions(
        is_shadow_mode=values.get(options.SHADOW_MODE),
        is_quota_mode=values.get(options.QUOTA_MODE),
        has_limit_headers=values.get(options.LIMIT_HEADERS),
        limit_header=values.get(options.LIMIT_HEADER),
        remaining_header=values.get(options.REMAINING_HEADER),
        reset_header=values.get(options.RESET_HEADER),
        has_dynamic_metadata=values.get(options.DYNAMIC_METADATA),
        near_limit_ratio=values.get(options.NEAR_LIMIT_RATIO),
        key_prefix=values.get(options.KEY_PREFIX),
        local_share=local_share,
    )
