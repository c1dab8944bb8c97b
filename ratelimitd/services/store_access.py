"""What the services need of a store that is open: single plans in, the batching is its business."""

from collections.abc import Callable, Sequence
from typing import Protocol

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.errors import StoreError


class StoreAccess(Protocol):
    """Decides plans; raises StoreUnavailable or StoreReplyLost where there is no decision."""

    @property
    def hash_secret(self) -> bytes | None:
        """The secret that all daemons of the store share; None until the store was reached."""
        ...

    async def check(self, plan: Plan, *, timeout_s: float) -> Reply:
        """Decide and charge one plan, together with whatever else arrives meanwhile."""
        ...

    def submit(
        self, plan: Plan, timeout_s: float, done: Callable[[Reply | StoreError], None]
    ) -> object:
        """Decide and charge one plan as `check` does; `done` gets what became of it, once."""
        ...

    async def peek(self, plans: Sequence[Plan], *, timeout_s: float) -> list[Reply]:
        """Decide plans without charging them."""
        ...
