"""The composition root: settings become a policy, a store, services and servers.

With one worker everything is in this process. With more, this one has the admin port, the policy
and the embedded store, and hands the connections of gateways to the others.

Rules:
- Nothing is served before the policy was compiled and every port is ours.
- What is opened is closed in the opposite order, whatever happens on the way.
- SIGTERM and SIGINT drain: health says so at once, calls in flight finish. SIGHUP reloads.
- While the store is opened they end the start: nobody waits for an orphan's lock or a long load.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

import uvloop

from ratelimitd.app.collector import settle
from ratelimitd.app.data_ports import data_ports
from ratelimitd.app.engine import Engine, open_engine
from ratelimitd.app.pages import pages
from ratelimitd.app.policy_loop import PolicyLoop, policy_loop
from ratelimitd.app.servers import Addresses, DataPorts, Ports, open_ports
from ratelimitd.app.subject_calls import registry_access
from ratelimitd.app.worker_ports import WorkerPorts
from ratelimitd.services.health import HealthState
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.settings.model import Settings
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.logs import fields, start_logging
from ratelimitd.telemetry.processes import Pulse
from ratelimitd.transport.health import HealthReporter
from ratelimitd.workers.directory import shared_directory
from ratelimitd.workers.file_limit import raise_file_limit
from ratelimitd.workers.policy_frames import PolicyFrames

_log = logging.getLogger("ratelimitd.daemon")

RESTART_DELAY_S = 5.0
BEAT_S = 1.0

T = TypeVar("T")

OnReady = Callable[[Addresses, PolicyHolder], None]


@dataclass(frozen=True, slots=True)
class Signals:
    """What the outside told us: to end, or to load the policy again."""

    stop: asyncio.Event
    reload: asyncio.Event


class _StoppedAtStartError(Exception):
    """A signal came before anything was served."""


def run(settings: Settings, on_ready: OnReady = lambda *_: None) -> None:
    """Serve until a signal; ConfigError says why it cannot be started.

    `on_ready` is called once, when every port answers.
    """
    telemetry = Telemetry()
    writer = start_logging(
        telemetry.logs,
        level=settings.log.level.number,
        log_format=settings.log.format,
        secrets=[settings.store.address.credentials.password],
    )
    raise_file_limit()
    try:
        uvloop.run(_serve(settings, telemetry, on_ready))
    except _StoppedAtStartError:
        _log.info("stopped before it was ready")
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
    told = [reporter.refresh]

    async def tell_all() -> None:
        for tell in told:
            await tell()

    async with AsyncExitStack() as stack:
        shared = None
        if settings.workers > 1:
            shared = stack.enter_context(shared_directory(settings.store.data_dir))
        frames = PolicyFrames(shared) if shared else None
        policies = policy_loop(settings, holder, telemetry, tell_all, frames)
        await _load_first(policies, can_fail=settings.policy.can_start_without)
        opening = open_engine(settings, telemetry, health, reporter.refresh, stack)
        engine = await _unless_stopped(opening, signals.stop)
        await reporter.refresh()
        workers = None
        if shared is not None:
            workers = WorkerPorts(settings, engine, policies, shared)
            told.append(workers.tell_policy)
        ports = Ports(
            service=engine.service,
            registry=registry_access(engine, settings.listen),
            pages=pages(settings, engine, workers.read_counters if workers else None),
            reporter=reporter,
            telemetry=telemetry,
            default_deadline_s=settings.default_deadline_s,
        )
        data = workers or data_ports(settings, engine, ports)
        addresses, drain = await open_ports(settings.listen, ports, data, stack)
        settle()
        _announce(addresses, holder, on_ready)
        works = [lambda: policies.watch(signals.stop), engine.watch.run]
        if not workers:
            works.append(lambda: _beat(engine, data))
        await _work_until(signals, [*works, lambda: _reload(signals, policies)])
        health.is_draining = True
        await reporter.refresh()
        _log.info("draining", extra=fields(grace_s=settings.listen.drain_grace_s))
        await drain()
    _log.info("stopped")


async def _unless_stopped(start: Coroutine[None, None, T], stop: asyncio.Event) -> T:
    """Return what `start` returns; once `stop` is set it is ended, and _StoppedAtStartError."""
    starting, stopping = asyncio.create_task(start), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            raise _StoppedAtStartError
        return await starting
    finally:
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)


async def _load_first(policies: PolicyLoop, *, can_fail: bool) -> None:
    if can_fail:
        await policies.reload()
    else:
        await policies.load()


def _announce(addresses: Addresses, holder: PolicyHolder, on_ready: OnReady) -> None:
    places = {
        "grpc": addresses.grpc,
        "http": addresses.http,
        "admin": addresses.admin,
        "metrics": addresses.metrics,
    }
    _log.info("ready", extra=fields(**{name: str(at) for name, at in places.items() if at}))
    on_ready(addresses, holder)


async def _work_until(signals: Signals, works: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run what goes on beside the requests until we are told to stop."""
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


async def _beat(engine: Engine, data: DataPorts) -> None:
    """Measure this process once a second, as the one worker that it is."""
    pulse = Pulse(engine.telemetry, 1)
    while True:
        pulse.beat(engine.store.queued_checks)
        data.measure()
        await asyncio.sleep(BEAT_S)


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
