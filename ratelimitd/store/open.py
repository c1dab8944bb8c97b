"""Open a store: address, server, client, breaker, batcher and hash secret, put together.

A store that is away does not keep a daemon from starting: it is asked again until it answers. What
an operator wrote wrongly does: ConfigError.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ratelimitd.defects import DefectLog
from ratelimitd.errors import ConfigError, StoreError
from ratelimitd.store.address import StoreAddress, StoreKind
from ratelimitd.store.batcher import Batcher, Send
from ratelimitd.store.breaker import OnChange
from ratelimitd.store.cluster import ClusterStore
from ratelimitd.store.connection import STORE_TIMEOUT_S, NodeClient
from ratelimitd.store.dial import check_usable
from ratelimitd.store.embedded import DEFAULT_MAX_MEMORY_BYTES, EmbeddedServer, start_embedded
from ratelimitd.store.hash_secret import HASH_SECRET_KEY, REFRESH_INTERVAL_S, HashSecret
from ratelimitd.store.info import StoreSample, add, sample
from ratelimitd.store.port import Store
from ratelimitd.store.scripts import load_scripts
from ratelimitd.store.single import SingleStore
from ratelimitd.store.topology import ClusterClient

# Until the store's hash secret is known sensitive counters stand on keys of our own.
FIRST_SECRET_INTERVAL_S = 0.2

_log = logging.getLogger(__name__)


def _ignore(*_: object) -> None:
    """Listen to nothing."""


def _unmeasured(send: Send) -> Send:
    """Send without measuring."""
    return send


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """What an operator may set, and who listens.

    `on_breaker` is told (is_open, reason), `on_unreadable` how many counters held garbage,
    `on_lost_debt` how much cost was beyond what limits record as debt,
    `on_late` how many answers came after their callers had left, `on_full` of each request that
    found no room in the queue, `on_give_back` how many charges a Cluster took back and how many
    it did not, `on_event` one line for the log. `measure` wraps what sends a batch.
    """

    timeout_s: float = STORE_TIMEOUT_S
    max_memory_bytes: int = DEFAULT_MAX_MEMORY_BYTES
    hash_secret: bytes | None = field(default=None, repr=False)
    on_breaker: OnChange = _ignore
    measure: Callable[[Send], Send] = _unmeasured
    on_late: Callable[[int], None] = _ignore
    on_full: Callable[[], None] = _ignore
    on_unreadable: Callable[[int], None] = _ignore
    on_lost_debt: Callable[[int], None] = _ignore
    on_give_back: Callable[[int, int], None] = _ignore
    on_event: Callable[[str], None] = _ignore


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreState:
    """How many servers of a store answer, of how many; `problem` is what one that does not says."""

    answering: int
    servers: int
    problem: str = ""

    @property
    def is_up(self) -> bool:
        """Whether some decisions can be made."""
        return self.answering > 0

    @property
    def counts(self) -> tuple[int, int, bool]:
        """Return what makes one state another."""
        return self.answering, self.servers, bool(self.problem)

    @property
    def summary(self) -> str:
        """Return how many nodes of a Cluster answer; empty for a single server."""
        if self.servers == 1:
            return ""
        return f"{self.answering} of {self.servers} nodes answer"

    def __str__(self) -> str:
        """Return the problem, in a Cluster after how many nodes answer; empty if all do."""
        if self.problem and self.summary:
            return f"{self.summary}: {self.problem}"
        return self.problem


class OpenStore:
    """A store in use; `store` takes lists of plans, `batcher` single ones from many callers."""

    def __init__(
        self,
        address: StoreAddress,
        options: StoreOptions,
        embedded: EmbeddedServer | None,
    ) -> None:
        """Compose what `address` needs; nothing is asked yet."""
        now = asyncio.get_running_loop().time
        scripts = load_scripts()
        self.address = address
        self.hash_secret = HashSecret(options.hash_secret)
        self.store: Store
        self.client: NodeClient | ClusterClient
        if address.kind is StoreKind.CLUSTER:
            self.client = ClusterClient(
                address, store_timeout_s=options.timeout_s, now=now, on_breaker=self._on_breaker
            )
            self.store = ClusterStore(
                self.client,
                scripts,
                on_unreadable=options.on_unreadable,
                on_lost_debt=options.on_lost_debt,
                on_give_back=options.on_give_back,
            )
        else:
            (endpoint,) = address.endpoints
            self.client = NodeClient(
                address,
                endpoint,
                store_timeout_s=options.timeout_s,
                on_breaker=self._on_breaker,
            )
            self.store = SingleStore(
                self.client,
                scripts,
                on_unreadable=options.on_unreadable,
                on_lost_debt=options.on_lost_debt,
            )
        self.batcher = Batcher(
            options.measure(self.store.send), on_late=options.on_late, on_full=options.on_full
        )
        self.embedded = embedded
        self._tell_breaker = options.on_breaker
        self._was_breaker_open = False
        self._timeout_s = options.timeout_s
        self._defects = DefectLog(_log)
        self._maintaining = asyncio.create_task(self._maintain())

    @property
    def is_breaker_open(self) -> bool:
        """Whether a server of the store is being refused at once."""
        return any(client.breaker.is_open for client in self._clients())

    async def look(self) -> StoreState:
        """Ask for a key, as decisions do, and in a Cluster every node for a sign of life."""
        key = HASH_SECRET_KEY
        problem = await _problem(self.client.run_on(key, "GET", key, timeout_s=self._timeout_s))
        nodes = [] if isinstance(self.client, NodeClient) else self.client.nodes
        if not nodes:
            return StoreState(answering=0 if problem else 1, servers=1, problem=problem)
        pings = (_problem(node.run("PING", timeout_s=self._timeout_s)) for node in nodes)
        silent = [found for found in await asyncio.gather(*pings) if found]
        return StoreState(
            answering=len(nodes) - len(silent),
            servers=len(nodes),
            problem=silent[0] if silent else problem,
        )

    async def sample(self) -> StoreSample:
        """Return memory, evictions and keys, summed over nodes; None where it may not be known."""
        samples = [await sample(client, timeout_s=self._timeout_s) for client in self._clients()]
        return add(samples)

    async def close(self) -> None:
        """End everything; the embedded server saves its data."""
        self._maintaining.cancel()
        await asyncio.wait({self._maintaining})
        await self.batcher.close()
        await self.store.close()
        await self.client.close()
        if self.embedded is not None:
            await self.embedded.stop()

    def _on_breaker(self, is_open: bool, reason: str) -> None:  # noqa: FBT001 - the breaker's order
        """Tell of the store as a whole: open with its first server, closed with its last."""
        is_any_open = is_open or self.is_breaker_open
        if is_any_open != self._was_breaker_open:
            self._was_breaker_open = is_any_open
            self._tell_breaker(is_any_open, reason)

    def _clients(self) -> Sequence[NodeClient]:
        return [self.client] if isinstance(self.client, NodeClient) else self.client.nodes

    async def _maintain(self) -> None:
        """Learn the store's hash secret soon, then keep it alive."""
        told = ""
        while True:
            is_known = False
            try:
                is_known = await self.hash_secret.refresh(self.client, timeout_s=self._timeout_s)
            except Exception as error:  # noqa: BLE001 - the secret expires if nobody goes on
                self._defects.record(error, "the store's hash secret cannot be kept")
            problem = self.hash_secret.problem
            # A store that is silent is told of by who watches it; this one answers, and says no.
            is_silent = any(client.breaker.is_silent for client in self._clients())
            if problem and problem != told and not is_silent and not self.hash_secret.is_known:
                _log.warning("the store cannot be used yet: %s", problem)
                told = problem
            await asyncio.sleep(REFRESH_INTERVAL_S if is_known else FIRST_SECRET_INTERVAL_S)


async def _problem(call: Awaitable[object]) -> str:
    try:
        await call
    except StoreError as error:
        return str(error)
    return ""


async def open_store(
    address: StoreAddress, *, data_dir: Path, options: StoreOptions | None = None
) -> OpenStore:
    """Open `address`; `data_dir` is where an embedded server lives.

    ConfigError if it could never be reached: its password file, TLS files or host cannot be used.
    """
    check_usable(address)
    options = options or StoreOptions()
    embedded: EmbeddedServer | None = None
    if address.kind is StoreKind.EMBEDDED:
        embedded = await start_embedded(
            data_dir, max_memory_bytes=options.max_memory_bytes, on_event=options.on_event
        )
        address = embedded.address
    try:
        opened = OpenStore(address, options, embedded)
    except ConfigError:
        if embedded is not None:
            await embedded.stop()
        raise
    try:
        # One look, so that a running store's hash secret is known before the first request.
        await opened.hash_secret.refresh(opened.client, timeout_s=options.timeout_s)
    except BaseException:
        await opened.close()
        raise
    return opened
