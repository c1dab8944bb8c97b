"""The policy as it is now: limits that exist at some times only come and go.

Rules:
- One object stands for the policy, what is blocked and the periods of its calendars. Whatever is
  remembered of plans is thrown away with it.
- A clock that steps back brings back what was.
"""

from typing import NamedTuple

from ratelimitd.decisions.facts import Facts
from ratelimitd.decisions.subject import Blocks
from ratelimitd.policy.active import active_policy
from ratelimitd.policy.model import Policy
from ratelimitd.services.directory import Directory
from ratelimitd.services.policy_holder import PolicyHolder

# A clock is set right by less every now and then, which changes no period worth a new plan.
STEP_BACK_US = 1_000_000


class Scenery(NamedTuple):
    """The policy at a time, and the facts that are the same for all requests until it changes."""

    loaded: Policy
    policy: Policy
    facts: Facts
    until_us: int | None


class PolicyNow:
    """Follows the holder, the directory and the clock."""

    def __init__(self, holder: PolicyHolder, directory: Directory) -> None:
        """Know nothing yet."""
        self._holder = holder
        self._directory = directory
        self._now: Scenery | None = None

    def at(self, now_us: int) -> Scenery:
        """Return what is in force at `now_us`; NotReady while there is no policy."""
        loaded, blocks = self._holder.current(), self._directory.blocks
        now = self._now
        if (
            now is None
            or now.loaded is not loaded
            or now.facts.blocks is not blocks
            or (now.until_us is not None and now_us >= now.until_us)
            or now_us < now.facts.now_us - STEP_BACK_US
        ):
            now = self._now = _scenery(loaded, blocks, now_us)
        return now

    def look(self, now_us: int) -> Scenery:
        """Return what is in force by another clock than ours; nothing is remembered of it."""
        return _scenery(self._holder.current(), self._directory.blocks, now_us)

    def forget(self) -> None:
        """Hold on to nothing of a policy that was replaced."""
        self._now = None


def _scenery(loaded: Policy, blocks: Blocks, now_us: int) -> Scenery:
    active = active_policy(loaded, now_us)
    return Scenery(loaded, active.policy, Facts(now_us, blocks), active.until_us)
