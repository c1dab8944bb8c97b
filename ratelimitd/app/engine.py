"""What decides in each process that answers requests: the store, the service, its counters.

No transport is known here, so that workers and the daemon itself are composed alike.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from ratelimitd.app.batch_metrics import OVERLOADED, measured
from ratelimitd.app.store_link import BatchedStore, StoreWatch
from ratelimitd.decisions.deny_cache import DenyCache
from ratelimitd.services.gate import Gate
from ratelimitd.services.health import HealthState
from ratelimitd.services.local_counters import LocalCounters
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.services.ratelimit import RateLimitService
from ratelimitd.services.subject_directory import SubjectDirectory
from ratelimitd.settings.model import Settings
from ratelimitd.store.address import StoreAddress, StoreKind
from ratelimitd.store.hash_secret import read_hash_secret_file
from ratelimitd.store.open import OpenStore, StoreOptions, open_store
from ratelimitd.store.scripts import load_subject_scripts
from ratelimitd.store.subjects import SubjectStore
from ratelimitd.store.subscription import Subscription
from ratelimitd.telemetry.counters import BreakerState, Telemetry
from ratelimitd.telemetry.refusals import RefusalLog


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A service that can decide; `address` is where its store really is.

    `gate` is for transports whose callers show certificates. `registry` is where `subjects` come
    from, and where operators change them.
    """

    service: RateLimitService
    gate: Gate
    health: HealthState
    store: BatchedStore
    watch: StoreWatch
    address: StoreAddress
    registry: SubjectStore
    subjects: SubjectDirectory

    @property
    def holder(self) -> PolicyHolder:
        """Return who holds the policy in force."""
        return self.service.holder

    @property
    def telemetry(self) -> Telemetry:
        """Return the counters of this process."""
        return self.service.telemetry


async def open_engine(
    settings: Settings,
    telemetry: Telemetry,
    health: HealthState,
    on_change: Callable[[], Awaitable[None]],
    stack: AsyncExitStack,
) -> Engine:
    """Open the store and compose the service; `stack` closes it.

    `on_change` is told after the store went away or came back.
    """
    local = LocalCounters(settings.decisions.local_share, _now_us)
    opened = await _open_store(settings, telemetry, local)
    store = BatchedStore(opened)
    stack.push_async_callback(store.close)
    watch = StoreWatch(
        opened=opened,
        health=health,
        telemetry=telemetry,
        on_change=on_change,
    )
    await watch.look()
    registry = SubjectStore(
        opened.client,
        load_subject_scripts(),
        prefix=settings.decisions.key_prefix,
        timeout_s=settings.store.timeout_s,
    )
    subjects = await _follow(registry, opened.address, stack)
    service = RateLimitService(
        holder=health.holder,
        store=store,
        options=replace(
            settings.decisions, has_partitions=opened.address.kind is StoreKind.CLUSTER
        ),
        telemetry=telemetry,
        refusals=RefusalLog(telemetry.logs),
        now_us=_now_us,
        deny_cache=DenyCache(settings.store.deny_cache_bytes),
        local=local,
        directory=subjects,
        wall_us=wall_us,
    )
    return Engine(
        service=service,
        gate=Gate(health.holder, telemetry, settings.listen.client_sans),
        health=health,
        store=store,
        watch=watch,
        address=opened.address,
        registry=registry,
        subjects=subjects,
    )


async def _follow(
    registry: SubjectStore, address: StoreAddress, stack: AsyncExitStack
) -> SubjectDirectory:
    """Return what is known of subjects and blocks, from now on kept up to date."""
    directory = SubjectDirectory(registry, now_us=wall_us)
    subscription = Subscription(
        address,
        registry.keys.channel,
        locate=lambda: registry.home(timeout_s=registry.timeout_s),
        on_message=directory.wake,
        on_connected=directory.begin_anew,
    )
    # Blocks hold from the first request on.
    await directory.look()
    stack.callback(directory.close)
    for background in (directory.run(), subscription.run()):
        stack.push_async_callback(_end, asyncio.create_task(background))
    return directory


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def _open_store(settings: Settings, telemetry: Telemetry, local: LocalCounters) -> OpenStore:
    log = logging.getLogger("ratelimitd.store")

    def on_breaker(is_open: bool, reason: str) -> None:  # noqa: FBT001 - the store's own order
        telemetry.set_breaker(BreakerState.OPEN if is_open else BreakerState.CLOSED)
        if is_open:
            log.warning("calls are not sent to the store any more: %s", reason)
        else:
            # The store decides again: what was counted here meanwhile is over.
            local.clear()
            log.info("calls are sent to the store again")

    secret_file = settings.store.hash_secret_file
    options = StoreOptions(
        timeout_s=settings.store.timeout_s,
        max_memory_bytes=settings.store.embedded_memory_bytes,
        hash_secret=None if secret_file is None else read_hash_secret_file(secret_file),
        on_breaker=on_breaker,
        measure=lambda send: measured(send, telemetry, time.monotonic),
        on_late=telemetry.late_answer,
        on_full=lambda: telemetry.store_error(OVERLOADED),
        on_unreadable=telemetry.unreadable_state,
        on_lost_debt=telemetry.lost_debt,
        on_give_back=telemetry.give_backs,
        # The embedded server does nothing of its own accord that an operator should not know.
        on_event=lambda line: log.warning("%s", line),
    )
    return await open_store(
        settings.store.address, data_dir=settings.store.data_dir, options=options
    )


def wall_us() -> int:
    """Return the time of day, by which an operator's words expire."""
    return time.time_ns() // 1000


def _now_us() -> int:
    return time.monotonic_ns() // 1000
