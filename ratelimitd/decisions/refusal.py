"""Whether the limits of one request refuse it together; the rule of lua/lib/refusal.lua.

Python needs it where no script decided: the store is away, or parts of a request were decided on
several nodes of a Cluster. A test holds both equal.
"""

from collections.abc import Iterable

from ratelimitd.policy.model import Limit


def is_refused(checks: Iterable[tuple[Limit, bool]], passing_quota: int = 0) -> bool:
    """Combine (limit, is_over) pairs; `passing_quota` counts quota limits that pass elsewhere.

    Refused when a limit that is neither shadow nor quota is over, or when there are quota limits
    and every one of them is over. A shadow limit never refuses; a shadow quota limit passes.
    """
    quota_over = 0
    quota_passing = passing_quota
    for limit, over in checks:
        counts_as_over = over and not limit.is_shadow
        if limit.is_quota:
            quota_over += counts_as_over
            quota_passing += not counts_as_over
        elif counts_as_over:
            return True
    return quota_over > 0 and quota_passing == 0
