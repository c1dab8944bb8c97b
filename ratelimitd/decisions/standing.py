"""Says for people what holds for who asks: each limit's number and where it comes from."""

from dataclasses import replace
from typing import NamedTuple

from ratelimitd.decisions.who import Who, override_of
from ratelimitd.policy.model import Limit

_ORIGIN = {"registry": "from the registry", "entry": "from a trusted entry"}


class Standing(NamedTuple):
    """One limit with the number that holds, and why; `reason` is empty for the rule's only one."""

    limit: Limit
    reason: str


def standing(rule: Limit, effective: Limit, who: Who) -> Standing:
    """Return where a limit of the policy, `rule`, stands for who asks."""
    effective = replace(effective, tiers={})
    override = override_of(rule, who)
    if override is not None:
        told = "suspended" if override.amount == 0 else f"override of `{override.limit}`"
        return Standing(effective, f"{told}: {override.reason}" if override.reason else told)
    if not rule.tiers:
        return Standing(effective, "")
    if not who.tier:
        return Standing(effective, "no tier is known: the default")
    origin = _ORIGIN[who.origin]
    if who.tier in rule.tiers:
        return Standing(effective, f"tier `{who.tier}` {origin}")
    return Standing(effective, f"tier `{who.tier}` {origin} is not named here: the default")
