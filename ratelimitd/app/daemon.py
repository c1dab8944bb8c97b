"""The composition root: settings become a policy, a store, services and servers, in one process.

Rules:
- Nothing is served before the policy was compiled and every port is ours.
- What is opened is closed in the opposite order, whatever happens on the way.
- SIGTERM and SIGINT drain: health says so at once, calls in flight finish. SIGHUP reloads.
"""

import asyncio
import json
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version

import uvloop

from ratelimitd.app.policy_loop import PolicyLoop, policy_loop
from ratelimitd.app.servers import Addresses, Ports, observed, open_ports, with_deadline
from ratelimitd.app.store_link import BatchedStore, StoreWatch
from ratelimitd.decisions.deny_cache import DenyCache
from ratelimitd.policy.dump import to_document, to_rlconfig
from ratelimitd.services.health import HealthState
from ratelimitd.services.local_counters import LocalCounters
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.services.ratelimit import RateLimitService
from ratelimitd.settings.model import Settings
from ratelimitd.settings.values import MetricsCompat
from ratelimitd.store.hash_secret import read_hash_secret_file
from ratelimitd.store.open import OpenStore, StoreOptions, open_store
from ratelimitd.telemetry.counters import BreakerState, Telemetry
from ratelimitd.telemetry.exposition import BuildInfo, Exposition
from ratelimitd.telemetry.logs import LEVELS, fields, start_logging
from ratelimitd.telemetry.measure import measured
from ratelimitd.telemetry.refusals import RefusalLog
from ratelimitd.transport.health import HealthReporter
from ratelimitd.transport.http import HttpPages

_log = logging.getLogger("ratelimitd.daemon")

RESTART_DELAY_S = 5.0

OnReady = Callable[[Addresses, PolicyHolder], None]


@dataclass(frozen=True, slots=True)
class Signals:
    """What the outside told us: to end, or to load the policy again."""

    stop: asyncio.Event
    reload: asyncio.Event


def run(settings: Settings, on_ready: OnReady = lambda *_: None) -> None:
    """Serve until a signal; ConfigError says why it cannot be started.

    `on_ready` is called once, when every port answers.
    """
    telemetry = Telemetry()
    writer = start_logging(
        telemetry.logs,
        level=LEVELS[settings.log.level.value],
        log_format=settings.log.format,
        secrets=[settings.store.address.credentials.password],
    )
    try:
        uvloop.run(_serve(settings, telemetry, on_ready))
    finally:
        writer.stop()


async def _serve(settings: Settings, telemetry: Telemetry, on_ready: OnReady) -> None:
    signals = _catch_signals()
    for warning in settings.warnings:
        _log.warning("%s", warning)
    holder = PolicyHolder()
    health = HealthState(
        holder=holder,
        needs_policy=settings.policy.is_health,
        needs_store=settings.store.is_health,
    )
    reporter = HealthReporter(health)
    policies = policy_loop(settings.policy, holder, telemetry, reporter.refresh)
    await _load_first(policies, can_fail=settings.policy.can_start_without)
    async with AsyncExitStack() as stack:
        local = LocalCounters(settings.decisions.local_share, _now_us)
        opened = await _open_store(settings, telemetry, local)
        store = BatchedStore(opened)
        stack.push_async_callback(store.close)
        watch = StoreWatch(
            opened=opened,
            health=health,
            telemetry=telemetry,
            timeout_s=settings.store.timeout_s,
            on_change=reporter.refresh,
        )
        await watch.look()
        service = RateLimitService(
            holder=holder,
            store=store,
            options=settings.decisions,
            telemetry=telemetry,
            refusals=RefusalLog(telemetry.logs),
            now_us=_now_us,
            deny_cache=DenyCache(settings.store.deny_cache_bytes),
            local=local,
        )
        await reporter.refresh()
        ports = Ports(
            service=service,
            pages=_pages(settings, service, health, store),
            reporter=reporter,
            telemetry=telemetry,
            default_deadline_s=settings.default_deadline_s,
        )
        addresses, drain = await open_ports(settings.listen, ports, stack)
        _announce(addresses, holder, on_ready)
        await _work_until(signals, policies, watch)
        health.is_draining = True
        await reporter.refresh()
        _log.info("draining", extra=fields(grace_s=settings.listen.drain_grace_s))
        await drain()
    _log.info("stopped")


async def _load_first(policies: PolicyLoop, *, can_fail: bool) -> None:
    if can_fail:
        await policies.reload()
    else:
        await policies.load()


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
        on_unreadable=telemetry.unreadable_state,
        on_event=lambda line: log.info("%s", line),
    )
    return await open_store(
        settings.store.address, data_dir=settings.store.data_dir, options=options
    )


def _pages(
    settings: Settings, service: RateLimitService, health: HealthState, store: BatchedStore
) -> HttpPages:
    telemetry = service.telemetry
    exposition = Exposition(
        telemetry,
        BuildInfo(version("ratelimitd"), settings.region),
        has_upstream_names=settings.metrics_compat is MetricsCompat.ENVOYPROXY,
    )

    def metrics(accept: str) -> tuple[bytes, str]:
        telemetry.set_queue_depth(store.queued_checks)
        return exposition.render(accept)

    def policy() -> str:
        holder = service.holder
        document = to_document(holder.policy) if holder.policy else {"revision": None}
        if holder.load_error:
            document = {**document, "load_errors": holder.load_error.splitlines()}
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    def rlconfig() -> str:
        return to_rlconfig(service.holder.policy) if service.holder.policy else ""

    json_call = with_deadline(service.should_rate_limit, settings.default_deadline_s)
    return HttpPages(
        should_rate_limit=observed(json_call, "json", telemetry),
        health=health,
        metrics=metrics,
        policy=policy,
        rlconfig=rlconfig,
    )


def _announce(addresses: Addresses, holder: PolicyHolder, on_ready: OnReady) -> None:
    places = {
        "grpc": addresses.grpc,
        "http": addresses.http,
        "admin": addresses.admin,
        "metrics": addresses.metrics,
    }
    _log.info("ready", extra=fields(**{name: str(at) for name, at in places.items() if at}))
    on_ready(addresses, holder)


async def _work_until(signals: Signals, policies: PolicyLoop, watch: StoreWatch) -> None:
    """Run what goes on beside the requests until we are told to stop."""
    works = (lambda: policies.watch(signals.stop), watch.run, lambda: _reload(signals, policies))
    tasks = [asyncio.create_task(_keep_going(work)) for work in works]
    try:
        await signals.stop.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _reload(signals: Signals, policies: PolicyLoop) -> None:
    while True:
        await signals.reload.wait()
        signals.reload.clear()
        await policies.reload()


async def _keep_going(work: Callable[[], Awaitable[None]]) -> None:
    """Run `work`; a defect in it is logged and costs no request: it starts again after a while."""
    while True:
        try:
            return await work()
        except Exception:  # noqa: BLE001 - a defect here must not end the daemon
            _log.exception("background work failed, starting it again")
            await asyncio.sleep(RESTART_DELAY_S)


def _catch_signals() -> Signals:
    signals = Signals(asyncio.Event(), asyncio.Event())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.stop.set)
    loop.add_signal_handler(signal.SIGHUP, signals.reload.set)
    return signals


def _now_us() -> int:
    return time.monotonic_ns() // 1000
