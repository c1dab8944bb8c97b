"""A worker: what decides, the gRPC and HTTP connections it was handed, and its counters.

Rules:
- It needs the store and what is in its directory; the supervisor may be busy or gone.
- Its settings come from the supervisor, by a pickle over a channel that only the two have.
- Nothing here imports grpcio, a command line or a file watcher: an import contract keeps it.
"""

import asyncio
import base64
import logging
import os
import pickle
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Final

from ratelimitd.app.certificate import follow_certificate
from ratelimitd.app.collector import settle
from ratelimitd.app.compiler import CompilerError, assemble, compile_apart, let_go
from ratelimitd.app.engine import Engine, open_engine
from ratelimitd.app.h2_port import h2_server, measure, server_tls
from ratelimitd.app.pages import pages
from ratelimitd.app.policy_in_force import put_in_force
from ratelimitd.errors import ConfigError
from ratelimitd.policy.compile import CompileOptions
from ratelimitd.policy.loaded import Loaded
from ratelimitd.services.health import HealthState
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.settings.model import Settings
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.logs import start_logging
from ratelimitd.telemetry.processes import Publisher, Pulse, read_all, worker_file
from ratelimitd.transport.h2.server import Server
from ratelimitd.transport.http import http_app
from ratelimitd.transport.http_adopted import HttpConnections
from ratelimitd.workers.messages import Adopt, Begin, Listener
from ratelimitd.workers.policy_copy import PolicyCopy, read_policy_copy
from ratelimitd.workers.policy_frames import frames_path, program_version, read_frames

_log = logging.getLogger("ratelimitd.worker")

TARGET: Final = "ratelimitd.app.worker:compose"
BEAT_S: Final = 1.0


def to_text(settings: Settings) -> str:
    """Return `settings` as a worker gets them."""
    return base64.b85encode(pickle.dumps(settings)).decode()


def from_text(text: str) -> Settings:
    """Return the settings that the supervisor gave."""
    settings = pickle.loads(base64.b85decode(text))  # noqa: S301 - from our own parent
    assert isinstance(settings, Settings)
    return settings


@asynccontextmanager
async def compose(begin: Begin, on_closed: Callable[[], None]) -> AsyncIterator["RateLimitWork"]:
    """Open what a worker has, until the block ends; ConfigError if that cannot be."""
    settings = from_text(begin.settings)
    telemetry = Telemetry()
    directory = Path(begin.directory)
    writer = start_logging(
        telemetry.logs,
        level=settings.log.level.number,
        log_format=settings.log.format,
        secrets=[settings.store.address.credentials.password],
    )
    async with AsyncExitStack() as stack:
        stack.callback(writer.stop)
        publisher = Publisher(directory / worker_file(begin.number), telemetry)
        stack.callback(publisher.close)
        health = HealthState(
            holder=PolicyHolder(),
            needs_policy=settings.policy.is_health,
            needs_store=settings.store.is_health,
        )
        engine = await open_engine(settings, telemetry, health, _nobody_watches, stack)
        work = RateLimitWork(settings, engine, directory, publisher, on_closed)
        pulse = Pulse(telemetry, begin.slot)
        for background in (engine.watch.run(), _beat(pulse, work)):
            task = asyncio.create_task(background)
            stack.callback(task.cancel)
        yield work


class RateLimitWork:
    """What a worker serves."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        directory: Path,
        publisher: Publisher,
        on_closed: Callable[[], None],
    ) -> None:
        """Serve what `engine` decides; needs a running loop."""
        self.engine = engine
        self.publisher = publisher
        self._directory = directory
        self._options = CompileOptions(
            merge_domains=settings.policy.is_merging_domains,
            counts_denied=settings.policy.counts_denied,
        )
        self._program = program_version()
        self._parts: list[object] = []
        self._serial = 0
        self.tls = server_tls(settings.listen)
        self.calls: Server = h2_server(settings, engine, on_closed)
        self.http = HttpConnections(
            http_app(pages(settings, engine, self._read_counters, pid=os.getppid())), on_closed
        )

    def open_connections(self, listener: Listener) -> int:
        """Return how many connections of `listener` are open."""
        return len(self.calls.links) if listener is Listener.GRPC else len(self.http)

    async def adopt(self, message: Adopt) -> None:
        """Serve a connection; one that is gone already is no matter."""
        sock = message.sock
        if sock is None:
            _log.warning("a connection was lost: there was no room for one more descriptor")
            return
        try:
            if message.listener is Listener.GRPC:
                await self.calls.adopt(sock, self.tls.context if self.tls else None)
            else:
                await self.http.adopt(sock)
        except OSError:  # of TLS too
            sock.close()

    def move(self, count: int) -> None:
        """Ask `count` gRPC clients to connect again."""
        for _ in range(count):
            if not self.calls.move_one():
                return

    async def load_policy(self) -> tuple[int, str]:
        """Serve the copy of the policy as it is now; what cannot be read leaves the last one."""
        holder = self.engine.holder
        try:
            copy = read_policy_copy(self._directory)
            # With only an error to tell of, the policy is the one that is in force.
            if copy.files is not None and copy.revision != self._revision():
                await self._put_in_force(await self._take_over(copy))
            self._serial, holder.load_error = copy.serial, copy.load_error
        except (OSError, ValueError, ConfigError, CompilerError) as error:
            _log.error("the policy could not be taken over, the last one stays: %s", error)
        return self._serial, self._revision()

    def _revision(self) -> str:
        policy = self.engine.holder.policy
        return policy.revision if policy is not None else ""

    async def _take_over(self, copy: PolicyCopy) -> Loaded:
        """Return the policy as it was compiled for us; compile it here if that cannot be had."""
        assert copy.files is not None, "the copy of a policy has its files"
        path = frames_path(self._directory, copy.revision)
        try:
            async with aclosing(read_frames(path, self._program)) as frames:
                return await assemble(frames)
        except Exception as error:  # noqa: BLE001 - pickles of another program raise anything
            _log.warning("the policy is compiled here: %s", error)
            return await compile_apart(copy.files, self._options)

    async def drain(self, grace_s: float) -> None:
        """Turn unhealthy, and finish what is in flight."""
        self.engine.health.is_draining = True
        await asyncio.gather(self.calls.stop(grace_s), self.http.drain(grace_s))

    async def _put_in_force(self, loaded: Loaded) -> None:
        old, self._parts = self._parts, loaded.parts
        await put_in_force(loaded, self.engine.holder, self.engine.telemetry)
        if not old:
            settle()
        await let_go(old)

    def _read_counters(self) -> Telemetry:
        """Return the counters of all processes, ours as of now."""
        self.publisher.publish()
        return read_all(self._directory)


async def _beat(pulse: Pulse, work: RateLimitWork) -> None:
    """Measure and publish once a second."""
    while True:
        pulse.series.connections_grpc = work.open_connections(Listener.GRPC)
        pulse.series.connections_http = work.open_connections(Listener.HTTP)
        queued = work.engine.store.queued_checks
        work.engine.telemetry.set_queue_depth(queued)
        pulse.beat(queued)
        measure(work.calls, work.engine.telemetry)
        follow_certificate(work.tls.files if work.tls else None, pulse.series)
        work.publisher.publish()
        await asyncio.sleep(BEAT_S)


async def _nobody_watches() -> None:
    """Do nothing: health is looked up when it is asked for."""
