"""Flags, our variables and the reference server's become one Settings value.

Rules:
- A flag wins over RATELIMITD_..., and that over the reference server's variables.
- The store's address and its credentials come from one place: REDIS_AUTH and REDIS_TLS_* are
  for the store of REDIS_URL and never sent to another.
- All problems are told at once, one line for each; a secret is never repeated.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.errors import ConfigError
from ratelimitd.settings import options
from ratelimitd.settings.model import (
    ListenSettings,
    LogSettings,
    PolicySettings,
    Settings,
    StoreSettings,
    TlsSettings,
)
from ratelimitd.settings.options import OPTIONS, Option
from ratelimitd.settings.upstream import Text, read_upstream
from ratelimitd.settings.upstream_table import UPSTREAM_BY_NAME
from ratelimitd.store.address import AddressOptions, parse_address
from ratelimitd.transport.listen import is_private

T = TypeVar("T")

_STORE_IS_MISSING = (
    "--store is missing: name the Redis or Valkey that all daemons share (or set REDIS_URL); "
    "daemons with a store each would allow every limit once each; for a single daemon: "
    "--store embedded"
)
# What Kubernetes sets in every pod for a Service whose name starts with ratelimitd.
_IS_LINK = re.compile(r"_(SERVICE_(HOST|PORT(_.+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_.+)?)?)$")
_STORE_OPTIONS = (
    options.STORE_PASSWORD_FILE,
    options.STORE_CA,
    options.STORE_CERT,
    options.STORE_KEY,
    options.STORE_ANY_HOSTNAME,
)
_TLS_OPTIONS = (
    options.GRPC_TLS_CERT,
    options.GRPC_TLS_KEY,
    options.GRPC_CLIENT_CA,
    options.GRPC_CLIENT_SAN,
)


def load_settings(flags: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    """Return the settings that `flags` (texts by option name) and `environ` give.

    Raises ConfigError with one line per problem.
    """
    unknown = flags.keys() - {option.name for option in OPTIONS}
    assert not unknown, f"flags without an option: {unknown}"
    upstream = read_upstream(environ)
    texts = dict(upstream.texts)
    texts.update(_ours(flags, environ))
    warnings = [*upstream.warnings, *_unknown_variables(environ)]
    warnings += _keep_store_together(texts)
    values = _Values(texts, list(upstream.problems))
    settings = _build(values, warnings)
    for option in OPTIONS:
        values.get(option)
    if values.problems:
        raise ConfigError("\n".join(dict.fromkeys(values.problems)))
    assert settings is not None, "settings that cannot be built have a problem"
    return settings


def _ours(flags: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, Text]:
    texts = {}
    for option in OPTIONS:
        if option.name in flags:
            texts[option.name] = Text(option.flag, flags[option.name])
        elif text := environ.get(option.variable, ""):
            texts[option.name] = Text(option.variable, text)
    return texts


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    known = {option.variable for option in OPTIONS}
    return [
        f"{name} is set and has no effect: there is no such variable"
        for name in sorted(environ)
        if name.startswith("RATELIMITD_") and name not in known and not _IS_LINK.search(name)
    ]


def _keep_store_together(texts: dict[str, Text]) -> list[str]:
    store = texts.get(options.STORE.name)
    if store is None or store.source == "REDIS_URL":
        return []
    dropped = []
    for option in _STORE_OPTIONS:
        text = texts.get(option.name)
        if text is not None and text.source in UPSTREAM_BY_NAME:
            dropped.append(text.source)
            del texts[option.name]
    return [f"{name} has no effect: the store is named by {store.source}" for name in dropped]


@dataclass(frozen=True, slots=True)
class _Values:
    """Texts by option name, parsed on demand; a bad one leaves a problem and its default."""

    texts: Mapping[str, Text]
    problems: list[str]

    def get(self, option: Option[T]) -> T:
        given = self.texts.get(option.name)
        if given is None:
            return option.default
        try:
            return option.parse(given.text)
        except ValueError as error:
            shown = "" if option.is_secret else f" {given.text!r}"
            self.problems.append(f"{given.source}:{shown} is not accepted: {error}")
            return option.default

    def source(self, option: Option[object]) -> str:
        given = self.texts.get(option.name)
        return given.source if given else option.flag


def _build(values: _Values, warnings: list[str]) -> Settings | None:
    policy = _policy(values)
    store = _store(values)
    listen = _listen(values, warnings)
    log = LogSettings(level=values.get(options.LOG_LEVEL), format=values.get(options.LOG_FORMAT))
    workers = values.get(options.WORKERS)
    if workers > 1:
        values.problems.append(
            f"{values.source(options.WORKERS)}: one process answers for now; for more, run more "
            "daemons on one store"
        )
    replicas = values.get(options.REPLICAS)
    default_deadline_s = values.get(options.DEFAULT_DEADLINE) / 1e6
    region = values.get(options.REGION)
    metrics_compat = values.get(options.METRICS_COMPAT)
    decisions = _decisions(values, replicas)
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
        replicas=replicas,
        region=region,
        metrics_compat=metrics_compat,
        warnings=tuple(warnings),
    )


def _policy(values: _Values) -> PolicySettings | None:
    directory = values.get(options.POLICY)
    if directory is None:
        if options.POLICY.name not in values.texts:
            values.problems.append(
                "--policy is missing: name the directory of the policy files "
                "(or set RATELIMITD_POLICY or RUNTIME_ROOT)"
            )
        return None
    return PolicySettings(
        directory=directory,
        is_ignoring_dot_files=values.get(options.IGNORE_DOT_FILES),
        is_merging_domains=values.get(options.MERGE_DOMAINS),
        counts_denied=not values.get(options.COUNT_ONLY_ADMITTED),
        can_start_without=values.get(options.START_WITHOUT_POLICY),
        is_health=values.get(options.HEALTHY_WITH_POLICY),
    )


def _store(values: _Values) -> StoreSettings | None:
    url = values.get(options.STORE)
    is_paired = _both(values, options.STORE_CERT, options.STORE_KEY)
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
    if not url:
        if options.STORE.name not in values.texts:
            values.problems.append(_STORE_IS_MISSING)
        return None
    try:
        address = parse_address(url, address_options)
    except ConfigError as error:
        if is_paired:
            values.problems.append(f"{values.source(options.STORE)}: {error}")
        return None
    return StoreSettings(
        address=address,
        data_dir=data_dir,
        timeout_s=timeout_us / 1e6,
        is_health=is_health,
        deny_cache_bytes=deny_cache_bytes,
    )


def _listen(values: _Values, warnings: list[str]) -> ListenSettings:
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
    return ListenSettings(
        grpc=values.get(options.GRPC),
        http=values.get(options.HTTP),
        admin=admin,
        metrics=values.get(options.METRICS),
        metrics_path=values.get(options.METRICS_PATH),
        tls=_tls(values),
        connection_age_ms=max(1, values.get(options.CONNECTION_AGE) // 1000),
        connection_age_grace_ms=max(1, values.get(options.CONNECTION_AGE_GRACE) // 1000),
        drain_grace_s=values.get(options.DRAIN_GRACE) / 1e6,
    )


def _tls(values: _Values) -> TlsSettings | None:
    certificate, key, client_ca, client_sans = (
        values.get(options.GRPC_TLS_CERT),
        values.get(options.GRPC_TLS_KEY),
        values.get(options.GRPC_CLIENT_CA),
        values.get(options.GRPC_CLIENT_SAN),
    )
    is_complete = _both(values, options.GRPC_TLS_CERT, options.GRPC_TLS_KEY)
    if client_sans and client_ca is None:
        values.problems.append(
            f"{values.source(options.GRPC_CLIENT_SAN)} needs {options.GRPC_CLIENT_CA.flag}: "
            "a name proves nothing without the authority that gave it"
        )
    if client_ca is not None and certificate is None and is_complete:
        values.problems.append(
            f"{values.source(options.GRPC_CLIENT_CA)} needs {options.GRPC_TLS_CERT.flag} and "
            f"{options.GRPC_TLS_KEY.flag}: callers show a certificate only over TLS"
        )
    if certificate is None or key is None:
        return None
    return TlsSettings(
        certificate=certificate, key=key, client_ca=client_ca, client_sans=client_sans
    )


def _both(values: _Values, one: Option[Path | None], other: Option[Path | None]) -> bool:
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


def _decisions(values: _Values, replicas: int) -> DecisionOptions:
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
        local_share=replicas,
    )
