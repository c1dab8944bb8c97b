"""What an operator sets for every decision of a daemon, whatever the policy says."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionOptions:
    """The switches that the reference server has as environment variables, and ours.

    `local_share` is by how many a limit is divided where a rule counts locally while the store
    is away: the workers of one daemon times its replicas. `has_partitions` says that keys of one
    script call must lie together, as in a Cluster.
    """

    is_shadow_mode: bool = False
    is_quota_mode: bool = False
    has_limit_headers: bool = False
    limit_header: str = "RateLimit-Limit"
    remaining_header: str = "RateLimit-Remaining"
    reset_header: str = "RateLimit-Reset"
    has_dynamic_metadata: bool = False
    near_limit_ratio: float = 0.8
    key_prefix: str = ""
    local_share: int = 1
    has_partitions: bool = False
