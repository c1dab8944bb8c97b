"""SubjectService on a real store, under a policy of the test's own."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ratelimitd.app.store_link import BatchedStore
from ratelimitd.app.subject_calls import subject_methods
from ratelimitd.decisions.deny_cache import DenyCache
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.model import Limit, Node, Policy, Subjects
from ratelimitd.services.domain_facts import FactsOfDomains
from ratelimitd.services.local_counters import LocalCounters
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.services.ratelimit import RateLimitService
from ratelimitd.services.registry_access import RegistryAccess
from ratelimitd.store.address import parse_address
from ratelimitd.store.open import OpenStore, StoreOptions, open_store
from ratelimitd.store.scripts import load_subject_scripts
from ratelimitd.store.subjects import SubjectStore
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.refusals import RefusalLog
from ratelimitd.transport.grpc import GrpcPort, start_grpc
from ratelimitd.transport.listen import TcpAddress
from tests.support.servers import Server

RULES = """
domain: api
descriptors:
  - key: api_key
    rate_limit: {name: per-key, unit: year, requests_per_unit: 5}
  - key: path
    descriptors:
      - key: user
        rate_limit: {name: per-user, unit: year, requests_per_unit: 5}
"""
# As many names as a record has room for, if they were short.
MANY_NAMES = tuple(f"{number:02}-" + "n" * 90 for number in range(33))
MANY = "domain: many\ndescriptors:\n" + "".join(
    f"  - {{key: k{name[:2]}, rate_limit: {{name: {name}, unit: day, requests_per_unit: 1}}}}\n"
    for name in MANY_NAMES
)
TIERS = {"free": 1, "pro": 2, "default": 3}
TIMEOUT_S = 5.0
# Beyond the store's own clock, which removes what has expired by it.
START_S = 4_000_000_000


@dataclass
class Clock:
    """The wall clock; the test moves it."""

    now_us: int = START_S * 1_000_000


def policy_of(key: str = "api_key", *, has_subjects: bool = True) -> Policy:
    """Return RULES with tiers in each limit, and subjects in all domains but one."""
    web = RULES.replace("domain: api", "domain: web")
    texts = {"api.yaml": RULES, "web.yaml": web, "many.yaml": MANY}
    policy = compile_policy(texts).policy
    domains = {
        name: replace(domain, root=_tiered(domain.root)) for name, domain in policy.domains.items()
    }
    if has_subjects:
        for name in ("api", "many"):
            domains[name] = replace(domains[name], subjects=Subjects(key))
    return replace(policy, domains=domains)


def access_of(
    opened: OpenStore, policy: Policy, clock: Clock, *, is_private: bool = True
) -> RegistryAccess:
    """Return how `opened` is reached under `policy`."""
    telemetry = Telemetry()
    holder = PolicyHolder(policy=policy)
    service = RateLimitService(
        holder=holder,
        store=BatchedStore(opened),
        options=DecisionOptions(),
        telemetry=telemetry,
        refusals=RefusalLog(telemetry.logs),
        now_us=lambda: clock.now_us,
        deny_cache=DenyCache(0),
        local=LocalCounters(1, lambda: clock.now_us),
    )
    return RegistryAccess(
        ratelimit=service,
        registry=SubjectStore(opened.client, load_subject_scripts(), timeout_s=TIMEOUT_S),
        domains=FactsOfDomains(holder),
        now_us=lambda: clock.now_us,
        is_private=is_private,
    )


@asynccontextmanager
async def opened_store(server: Server, data_dir: Path) -> AsyncIterator[OpenStore]:
    """Open a store until the block ends."""
    options = StoreOptions(timeout_s=TIMEOUT_S)
    opened = await open_store(parse_address(server.url), data_dir=data_dir, options=options)
    try:
        yield opened
    finally:
        await opened.close()


@contextmanager
def serving_subjects(server: Server, data_dir: Path, policy: Policy, clock: Clock) -> Iterator[str]:
    """Serve SubjectService by gRPC from a thread of its own; gives its address."""
    is_ready, is_over = threading.Event(), threading.Event()
    address = ""

    async def serve() -> None:
        nonlocal address
        async with opened_store(server, data_dir) as opened:
            port = await start_grpc(
                GrpcPort(address=TcpAddress("127.0.0.1", 0), flag="--admin"),
                subject_methods(access_of(opened, policy, clock), TIMEOUT_S),
                observe_call=lambda *_: None,
            )
            address = str(port.address)
            is_ready.set()
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, is_over.wait)
            await port.stop(0)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert is_ready.wait(10)
        yield address
    finally:
        is_over.set()
        thread.join(10)


def _tiered(node: Node) -> Node:
    """Return `node` whose limits, and those below, have TIERS."""
    exact: Mapping[str, Node] = {name: _tiered(child) for name, child in node.exact.items()}
    limits: tuple[Limit, ...] = tuple(replace(limit, tiers=TIERS) for limit in node.limits)
    return replace(node, exact=exact, limits=limits)
