"""The open store as the services and the operator see it: batched, measured, and watched."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.services.health import HealthState
from ratelimitd.store.batcher import Take
from ratelimitd.store.open import OpenStore, StoreState
from ratelimitd.store.wire import PackedPlan
from ratelimitd.telemetry.counters import BreakerState, Telemetry

_log = logging.getLogger("ratelimitd.store")

# How late it is seen that a store nobody uses went away, and that it came back.
LOOK_INTERVAL_S = 1.0
# Memory and evictions change slowly, and a scrape comes every ten seconds or so.
LOOKS_PER_SAMPLE = 10


class BatchedStore:
    """The services' StoreAccess: plans from many calls travel together, and are counted."""

    def __init__(self, opened: OpenStore) -> None:
        """Send to `opened`."""
        self._opened = opened
        self._loop = asyncio.get_running_loop()

    @property
    def hash_secret(self) -> bytes | None:
        """The secret that all daemons of the store share; None until the store was reached."""
        secret = self._opened.hash_secret
        return secret.value if secret.is_known else None

    @property
    def problem(self) -> str:
        """Why the secret is not known; empty if nobody asked the store yet."""
        return self._opened.hash_secret.problem

    @property
    def queued_checks(self) -> int:
        """How many checks wait for their batch."""
        return self._opened.batcher.queued_checks

    async def check(self, plan: Plan, *, timeout_s: float) -> Reply:
        """Decide and charge one plan, together with whatever else arrives meanwhile."""
        return await self._opened.batcher.check(plan, timeout_s=timeout_s)

    def now_s(self) -> float:
        """Return the clock of deadlines."""
        return self._loop.time()

    def submit(self, plan: PackedPlan, deadline_s: float, take: Take, ticket: object) -> object:
        """Decide and charge one plan in the next batch; `take` gets what became of it, once."""
        return self._opened.batcher.submit(plan, deadline_s, take, ticket)

    async def peek(self, plans: Sequence[Plan], *, timeout_s: float) -> list[Reply]:
        """Decide plans without charging them."""
        return await self._opened.store.peek(plans, timeout_s=timeout_s)

    async def close(self) -> None:
        """Refuse what is queued, wait for the batch in flight, and close the store."""
        await self._opened.close()


@dataclass(slots=True, kw_only=True)
class StoreWatch:
    """Looks at the store now and then, so that health and metrics tell how it is.

    `on_change` is told after the store went away or came back.
    """

    opened: OpenStore
    health: HealthState
    telemetry: Telemetry
    on_change: Callable[[], Awaitable[None]]
    _told: StoreState | None = field(default=None)

    async def look(self) -> None:
        """Ask the store for a sign of life, and log it when that changed."""
        state, told = await self.opened.look(), self._told
        is_open = self.opened.is_breaker_open
        self.telemetry.set_breaker(BreakerState.OPEN if is_open else BreakerState.CLOSED)
        # The reason may change with each look, and is told once.
        if told is not None and told.counts == state.counts:
            return
        self._told = state
        self.health.is_store_up = state.is_up
        self.health.store_note = state.summary if state.problem else ""
        if not state.problem:
            _log.info("the store answers: %s", self.opened.address)
        else:
            how = "answers in part" if state.is_up else "does not answer"
            # An open breaker has warned, with the reason; twice would look like two problems.
            level = logging.INFO if is_open and not state.is_up else logging.WARNING
            _log.log(level, "the store %s: %s", how, state)
        await self.on_change()

    async def run(self) -> None:
        """Look until cancelled."""
        looks = 0
        while True:
            if looks % LOOKS_PER_SAMPLE == 0:
                await self._sample()
            looks += 1
            await asyncio.sleep(LOOK_INTERVAL_S)
            await self.look()

    async def _sample(self) -> None:
        found = await self.opened.sample()
        self.telemetry.store_info(
            used_memory_bytes=found.used_memory_bytes,
            max_memory_bytes=found.max_memory_bytes,
            evicted_keys=found.evicted_keys,
            keys=found.keys,
        )
