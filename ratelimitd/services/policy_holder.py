"""The policy in force: one reference that a reload replaces, and what became of the last load."""

from dataclasses import dataclass

from ratelimitd.errors import NotReady
from ratelimitd.policy.loaded import Listing
from ratelimitd.policy.model import Policy


@dataclass(slots=True)
class PolicyHolder:
    """`policy` is None until a first one was good; `load_error` is the last load's, "" if good.

    `listing` is what the pages show of it; None where nobody asks.

    A request reads `policy` once, so that it never sees half of two.
    """

    policy: Policy | None = None
    load_error: str = ""
    listing: Listing | None = None

    def current(self) -> Policy:
        """Return the policy in force; NotReady while there is none."""
        if self.policy is None:
            raise NotReady("no policy is loaded; see `ratelimitd validate` and the daemon's log")
        return self.policy
