"""The policy in force and who may call: references that a reload replaces."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ratelimitd.errors import NotReady
from ratelimitd.policy.callers import Callers
from ratelimitd.policy.loaded import Listing
from ratelimitd.policy.model import Policy


@dataclass(slots=True)
class PolicyHolder:
    """`policy` is None until a first one was good; `load_error` is the last load's, "" if good.

    `listing` is what the pages show of it; None where nobody asks. `callers` is None where
    everybody may call everything.

    `listeners` are told after it was replaced.

    A request reads `policy` once, so that it never sees half of two.
    """

    policy: Policy | None = None
    callers: Callers | None = None
    load_error: str = ""
    listing: Listing | None = None
    listeners: list[Callable[[], None]] = field(default_factory=list)

    def current(self) -> Policy:
        """Return the policy in force; NotReady while there is none."""
        if self.policy is None:
            raise NotReady("no policy is loaded; see `ratelimitd validate` and the daemon's log")
        return self.policy
