"""What a store is, whatever stands behind it: a list of plans in, a list of replies out."""

from collections.abc import Sequence
from typing import Protocol

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.errors import StoreError


class Store(Protocol):
    """Decides plans atomically: one list is one serial history, and one script call.

    Every verb raises StoreUnavailable when nothing was sent and StoreReplyLost when the answer
    did not come. Every plan has at least one check; `timeout_s` bounds the whole call.
    """

    async def check(self, plans: Sequence[Plan], *, timeout_s: float) -> list[Reply]:
        """Decide and charge `plans` in order; one reply for each, or the first error."""
        ...

    async def check_each(
        self, plans: Sequence[Plan], *, timeout_s: float
    ) -> Sequence[Reply | StoreError]:
        """Decide and charge `plans` in order; a reply or an error for each."""
        ...

    async def peek(self, plans: Sequence[Plan], *, timeout_s: float) -> list[Reply]:
        """Decide `plans` one by one as if each came alone now; nothing is charged."""
        ...

    async def close(self) -> None:
        """Wait for what goes on behind the answers; the time is bounded."""
        ...
