"""The policy as it is at a time."""

from typing import NamedTuple

from ratelimitd.policy.model import Policy


class Active(NamedTuple):
    """A policy, and until when it is so; None for ever."""

    policy: Policy
    until_us: int | None


def active_policy(policy: Policy, now_us: int) -> Active:
    """Return the policy as it is at `now_us`."""
    del now_us
    return Active(policy, None)
