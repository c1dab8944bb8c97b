"""What the services need of a store that is open: single plans in, the batching is its business."""

from collections.abc import Sequence
from typing import Protocol

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.store.batcher import Take
from ratelimitd.store.wire import PackedPlan


class StoreAccess(Protocol):
    """Decides plans; raises StoreUnavailable or StoreReplyLost where there is no decision."""

    @property
    def hash_secret(self) -> bytes | None:
        """The secret that all daemons of the store share; None until the store was reached."""
        ...

    @property
    def problem(self) -> str:
        """Why the secret is not known; empty if nobody asked the store yet."""
        ...

    async def check(self, plan: Plan, *, timeout_s: float) -> Reply:
        """Decide and charge one plan, together with whatever else arrives meanwhile."""
        ...

    def now_s(self) -> float:
        """Return the clock of deadlines."""
        ...

    def submit(self, plan: PackedPlan, deadline_s: float, take: Take, ticket: object, /) -> object:
        """Decide and charge one plan as `check` does; `take` gets what became of it, once."""
        ...

    async def peek(self, plans: Sequence[Plan], *, timeout_s: float) -> list[Reply]:
        """Decide plans without charging them."""
        ...
