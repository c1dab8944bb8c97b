"""A rate-limit service on a real store, without a transport."""

from collections.abc import AsyncIterator, Awaitable, Callable
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
from ratelimitd.services.local_counters import LocalCounters
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.services.ratelimit import RateLimitService
from ratelimitd.store.address import parse_address
from ratelimitd.store.open import StoreOptions, open_store
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.refusals import RefusalLog
from tests.support.servers import Server, start_server

STORE_TIMEOUT_S = 1.0
PATIENT = CallContext(timeout_s=10.0)


@dataclass
class Running:
    """A service, the store it uses, and the clock that the test moves."""

    service: RateLimitService
    server: Server
    clock_us: list[int]

    async def ask(self, *descriptors: str, hits: int = 0, domain: str = "api") -> str:
        """Ask for `key=value` descriptors; returns the overall code's name."""
        message = message_of(*descriptors, hits=hits, domain=domain)
        response = await self.service.should_rate_limit(message, PATIENT)
        return rls_pb2.RateLimitResponse.Code.Name(response.overall_code)

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
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Give a function that starts a service with a policy on a store of its own."""
    async with AsyncExitStack() as stack:

        async def start_service(
            policy: str | None,
            *,
            options: DecisionOptions | None = None,
            deny_cache_bytes: int = 0,
            is_store_up: bool = True,
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
            )
            return Running(service, server, clock_us)

        yield start_service
