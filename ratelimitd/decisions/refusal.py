"""Whether the limits of one request refuse it together; the rule of lua/lib/refusal.lua.

Python needs it where no script decided: the store is away, or parts of a request were decided on
several nodes of a Cluster. A test holds both equal.
"""

from collections.abc import Iterable
from typing import NamedTuple

from ratelimitd.policy.model import Limit


class Ruling(NamedTuple):
    """What one limit says; `is_joined`: the ruling before is of the same descriptor."""

    limit: Limit
    is_over: bool
    is_joined: bool = False


def is_refused(rulings: Iterable[Ruling], passing_quota: int = 0) -> bool:
    """Combine the rulings; `passing_quota` counts quota descriptors that pass elsewhere.

    Refused when a limit that is neither shadow nor quota is over, or when there are descriptors
    with quota limits and every one of them is over: that is, one of its quota limits is. A shadow
    limit never refuses; a shadow quota limit passes.
    """
    # For each descriptor, whether each of its quota limits is over.
    quotas: list[list[bool]] = []
    for limit, over, is_joined in rulings:
        if not is_joined or not quotas:
            quotas.append([])
        counts_as_over = over and not limit.is_shadow
        if limit.is_quota:
            quotas[-1].append(counts_as_over)
        elif counts_as_over:
            return True
    overs = [any(of_one) for of_one in quotas if of_one]
    return bool(overs) and all(overs) and not passing_quota
