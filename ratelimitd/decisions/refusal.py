"""Whether the limits of one request refuse it together; the rule of lua/lib/refusal.lua.

Python needs it where no script decided: the store is away, or parts of a request were decided on
several nodes of a Cluster. A test holds both equal.
"""

from collections.abc import Iterable

from ratelimitd.decisions.plan import Check


def is_refused(checks: Iterable[tuple[Check, bool]], passing_quota: int = 0) -> bool:
    """Combine (check, is_over) pairs; `passing_quota` counts quota descriptors that pass elsewhere.

    Refused when a limit that is neither shadow nor quota is over, or when there are quota
    descriptors and every one of them is over: any of its limits is. A shadow limit never refuses;
    a quota descriptor whose limits are all shadow passes.
    """
    quota: list[bool] = []
    for check, over in checks:
        limit = check.limit
        counts_as_over = over and not limit.is_shadow
        if not limit.is_quota:
            if counts_as_over:
                return True
        elif check.is_joined and quota:
            quota[-1] = quota[-1] or counts_as_over
        else:
            quota.append(counts_as_over)
    return bool(quota) and all(quota) and not passing_quota
