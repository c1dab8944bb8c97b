"""All that an operator can set, as one immutable value."""

from dataclasses import dataclass
from pathlib import Path

from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.settings.values import DataPlane, LogLevel, MetricsCompat
from ratelimitd.store.address import StoreAddress
from ratelimitd.telemetry.logs import LogFormat
from ratelimitd.transport.listen import ListenAddress, TlsFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """Where the policy is, how it is read, and what happens while there is none."""

    directory: Path
    is_ignoring_dot_files: bool = False
    is_merging_domains: bool = False
    counts_denied: bool = True
    can_start_without: bool = False
    is_health: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Where the store is; `data_dir` and `embedded_memory_bytes` are the embedded store's."""

    address: StoreAddress
    data_dir: Path
    timeout_s: float = 0.25
    is_health: bool = False
    deny_cache_bytes: int = 0
    hash_secret_file: Path | None = None
    embedded_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenSettings:
    """Where each port listens, who may call, and how long a gRPC connection may live.

    `client_sans` are the names of which a caller's certificate must have one; none accept all
    that the client CA vouches for.
    """

    grpc: ListenAddress
    http: ListenAddress
    admin: ListenAddress
    metrics: ListenAddress | None = None
    metrics_path: str = "/metrics"
    tls: TlsFiles | None = None
    client_sans: tuple[str, ...] = ()
    connection_age_ms: int
    connection_age_grace_ms: int
    drain_grace_s: float

    @property
    def knows_callers(self) -> bool:
        """Whether callers of the gRPC port show certificates, by which they can be told apart."""
        return self.tls is not None and self.tls.client_ca is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What is logged, and how it looks."""

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.TEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a daemon is told at its start; `warnings` are for the operator, in order."""

    policy: PolicySettings
    store: StoreSettings
    listen: ListenSettings
    log: LogSettings
    decisions: DecisionOptions
    default_deadline_s: float
    workers: int = 1
    data_plane: DataPlane = DataPlane.H2
    replicas: int = 1
    region: str = ""
    metrics_compat: MetricsCompat = MetricsCompat.NONE
    warnings: tuple[str, ...] = ()
