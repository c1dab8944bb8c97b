"""The ports that gateways call, accepted here and served by worker processes."""

import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from ratelimitd.app import worker
from ratelimitd.app.engine import Engine
from ratelimitd.app.h2_port import server_tls
from ratelimitd.app.policy_loop import PolicyLoop
from ratelimitd.settings.model import Settings
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.processes import read_all
from ratelimitd.transport import sockets
from ratelimitd.transport.listen import ListenAddress
from ratelimitd.workers.messages import Listener
from ratelimitd.workers.supervisor import Supervisor, WorkerOptions


class WorkerPorts:
    """The workers of a daemon, and what it tells them."""

    def __init__(
        self, settings: Settings, engine: Engine, policies: PolicyLoop, directory: Path
    ) -> None:
        """Serve what `engine` would, from as many processes as `settings` say."""
        self._settings = settings
        self._engine = engine
        self._policies = policies
        self._directory = directory
        self._supervisor: Supervisor | None = None

    async def open(self, stack: AsyncExitStack) -> tuple[ListenAddress, ListenAddress]:
        """Bind both ports, start the workers, and wait until they are ready to get connections."""
        settings = self._settings
        server_tls(settings.listen)  # what is wrong with its files is said before the start
        http, http_address = _bind(settings.listen.http, "--http", stack)
        sock, address = _bind(settings.listen.grpc, "--grpc", stack)
        supervisor = Supervisor(
            WorkerOptions(
                count=settings.workers,
                target=worker.TARGET,
                settings=worker.to_text(_of_a_worker(settings, self._engine)),
                directory=self._directory,
                grace_s=settings.listen.drain_grace_s,
            ),
            {Listener.GRPC: sock, Listener.HTTP: http},
            self._engine.telemetry,
        )
        self._supervisor = supervisor
        stack.push_async_callback(supervisor.stop)
        await self.tell_policy()
        await supervisor.start()
        return address, http_address

    async def tell_policy(self) -> None:
        """Let the workers serve the policy in force, and show what is wrong with a newer one."""
        if self._supervisor is not None:
            holder = self._engine.holder
            revision = holder.policy.revision if holder.policy is not None else ""
            self._supervisor.tell_policy(self._policies.files, holder.load_error, revision)

    async def drain(self) -> None:
        """Let all workers finish and end."""
        assert self._supervisor is not None, "open comes first"
        await self._supervisor.stop()

    def measure(self) -> None:
        """Do nothing: each worker measures itself."""

    def read_counters(self) -> Telemetry:
        """Return the sum of all processes, this one's as of now."""
        if self._supervisor is not None:
            self._supervisor.publish()
        return read_all(self._directory)


def _of_a_worker(settings: Settings, engine: Engine) -> Settings:
    """Return what one worker is told: where the store really is, and its part of the memory."""
    store = settings.store
    part = store.deny_cache_bytes // settings.workers
    return replace(settings, store=replace(store, address=engine.address, deny_cache_bytes=part))


def _bind(
    address: ListenAddress, flag: str, stack: AsyncExitStack
) -> tuple[socket.socket, ListenAddress]:
    sock = sockets.bind(address, flag)
    stack.callback(sock.close)
    remove: Callable[[], None] = sockets.SocketFile(address).remove
    stack.callback(remove)
    return sock, sockets.bound_address(address, sock)
