"""A rate-limit service on a real store, without a transport."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.app.store_link import BatchedStore
from ratelimitd.decisions.deny_cache import DenyCache
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.policy.compile import compile_policy
from ratelimitd.services.context import CallContext
from ratelimitd.services.directory import Directory, NoDirectory
from ratelimitd.services.gate import Peer
from ratelimitd.services.hot_path import HotPath
from ratelimitd.services.local_counters import LocalCounters
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.services.ratelimit import RateLimitService
from ratelimitd.store.address import parse_address
from ratelimitd.store.open import OpenStore, StoreOptions, open_store
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.refusals import RefusalLog
from tests.support.servers import Server, start_server

STORE_TIMEOUT_S = 1.0
DEFAULT_DEADLINE_S = 5.0
PATIENT = CallContext(timeout_s=10.0)


class Told:
    """Where one call is answered."""

    def __init__(self, caller: Peer | None = None) -> None:
        self.caller = caller
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def answer_all(self, answers: Sequence[tuple[int, bytes]]) -> None:
        ((_, encoded),) = answers
        self.answered.set_result(encoded)

    def fail(self, number: int, error: Exception) -> None:
        self.answered.set_exception(error)


async def ask_hot_path(
    hot: HotPath, message: rls_pb2.RateLimitRequest | bytes, context: CallContext = PATIENT
) -> rls_pb2.RateLimitResponse:
    """Ask once; raises what the transport would be told."""
    replies = Told(context.caller)
    body = message if isinstance(message, bytes) else message.SerializeToString()
    hot.serve([(1, context, body)], replies)
    return rls_pb2.RateLimitResponse.FromString(await replies.answered)


@dataclass
class Running:
    """A service, the store it uses, and the clock that the test moves.

    It is asked as grpcio asks it, or as our own server does, with a `hot_path`.
    """

    service: RateLimitService
    server: Server
    clock_us: list[int]
    opened: OpenStore
    hot_path: HotPath | None = None

    async def ask(self, *descriptors: str, hits: int = 0, domain: str = "api") -> str:
        """Ask for `key=value` descriptors; returns the overall code's name."""
        message = message_of(*descriptors, hits=hits, domain=domain)
        response = await self.should_rate_limit(message)
        return rls_pb2.RateLimitResponse.Code.Name(response.overall_code)

    async def should_rate_limit(
        self, message: rls_pb2.RateLimitRequest, context: CallContext = PATIENT
    ) -> rls_pb2.RateLimitResponse:
        """Answer one request; raises what a transport would be told."""
        if self.hot_path is None:
            return await self.service.should_rate_limit(message, context)
        return await ask_hot_path(self.hot_path, message, context)

    def script_calls(self) -> int:
        """Return how many scripts the store has run."""
        stats = self.server.client().info("commandstats")
        return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


Start = Callable[..., Awaitable[Running]]


def message_of(*descriptors: str, hits: int = 0, domain: str = "api") -> rls_pb2.RateLimitRequest:
    message = rls_pb2.RateLimitRequest(domain=domain, hits_addend=hits)
    for text in descriptors:
        descriptor = message.descriptors.add()
        for entry in text.split(","):
            key, _, value = entry.partition("=")
            descriptor.entries.add(key=key, value=value)
    return message


@pytest.fixture
def data_plane() -> str:
    """Ask as grpcio does, where a module does not say otherwise."""
    return "grpcio"


@pytest.fixture
async def start(tmp_path: Path, data_plane: str) -> AsyncIterator[Start]:
    """Give a function that starts a service with a policy on a store of its own."""
    async with AsyncExitStack() as stack:

        async def start_service(
            policy: str | None,
            *,
            options: DecisionOptions | None = None,
            deny_cache_bytes: int = 0,
            is_store_up: bool = True,
            directory: Directory | None = None,
            wall_us: Callable[[], int] = lambda: 0,
        ) -> Running:
            server = start_server("valkey9", tmp_path / "store")
            stack.callback(server.stop)
            if not is_store_up:
                server.kill()
            telemetry = Telemetry()
            opened = await open_store(
                parse_address(server.url),
                data_dir=tmp_path,
                options=StoreOptions(timeout_s=STORE_TIMEOUT_S),
            )
            store = BatchedStore(opened)
            stack.push_async_callback(store.close)
            clock_us = [0]
            service = RateLimitService(
                holder=PolicyHolder(
                    policy=None if policy is None else compile_policy({"p.yaml": policy}).policy
                ),
                store=store,
                options=options or DecisionOptions(),
                telemetry=telemetry,
                refusals=RefusalLog(telemetry.logs),
                now_us=lambda: clock_us[0],
                deny_cache=DenyCache(deny_cache_bytes),
                local=LocalCounters(1, lambda: clock_us[0]),
                directory=NoDirectory() if directory is None else directory,
                wall_us=wall_us,
            )
            hot_path = HotPath(service, DEFAULT_DEADLINE_S) if data_plane == "h2" else None
            return Running(service, server, clock_us, opened, hot_path)

        yield start_service
