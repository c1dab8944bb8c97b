"""What the services need of a store: a list of plans in, a list of replies out."""

from collections.abc import Sequence
from typing import Protocol

from ratelimitd.decisions.plan import Plan, Reply


class Store(Protocol):
    """Decides plans atomically: one list is one serial history, and one script call.

    Both verbs raise StoreUnavailable when nothing was sent and StoreReplyLost when the answer
    did not come. Every plan has at least one check; `timeout_s` bounds the whole call.
    """

    async def check(self, plans: Sequence[Plan], *, timeout_s: float) -> list[Reply]:
        """Decide and charge `plans` in order; one reply for each."""
        ...

    async def peek(self, plans: Sequence[Plan], *, timeout_s: float) -> list[Reply]:
        """Decide `plans` one by one as if each came alone now; nothing is charged."""
        ...
