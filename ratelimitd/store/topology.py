"""The nodes of a Cluster: which one serves a slot, and commands sent to where they belong.

Rules:
- The map comes from CLUSTER SLOTS of any node that answers, and again after a redirect or a
  failure, at most each REFRESH_PAUSE_S.
- A redirect means that nothing ran: the command follows it, MAX_REDIRECTS times at most. Anything
  else that went wrong after sending is final.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from ratelimitd.decisions.keys import SLOTS, slot_of
from ratelimitd.defects import DefectLog
from ratelimitd.errors import StoreError, StoreUnavailable
from ratelimitd.store.address import Endpoint, StoreAddress
from ratelimitd.store.breaker import OnChange
from ratelimitd.store.connection import STORE_TIMEOUT_S, Answers, NodeClient, OnAnswers
from ratelimitd.store.exchange import Argument, Command
from ratelimitd.store.failures import Redirected

MAX_REDIRECTS = 3
REFRESH_PAUSE_S = 0.2

_log = logging.getLogger(__name__)


class ClusterClient:
    """Runs commands on the nodes of the Cluster that the seeds of `address` belong to."""

    def __init__(
        self,
        address: StoreAddress,
        *,
        store_timeout_s: float = STORE_TIMEOUT_S,
        now: Callable[[], float],
        on_breaker: OnChange | None = None,
    ) -> None:
        """Ask nobody yet: the first call loads the map of slots."""
        self._address = address
        self._store_timeout_s = store_timeout_s
        self._now = now
        self._on_breaker = on_breaker
        self._clients: dict[Endpoint, NodeClient] = {}
        self._owners: list[Endpoint | None] = []
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at = -REFRESH_PAUSE_S
        self._problem = StoreUnavailable(f"store {address}: no node was asked yet")
        self._mapping: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._defects = DefectLog(_log)

    @property
    def nodes(self) -> Sequence[NodeClient]:
        """The clients of the nodes that hold slots."""
        return [self._client(endpoint) for endpoint in dict.fromkeys(self._owners) if endpoint]

    async def run_on(self, key: bytes, *arguments: Argument, timeout_s: float) -> object:
        """Run one command once on the node that has `key`."""
        (answer,) = await self.run_by_slot(
            [(slot_of(_hashed_part(key)), Command(arguments))], timeout_s=timeout_s
        )
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def owner_of(self, slot: int, *, timeout_s: float) -> Endpoint:
        """Return the node that serves `slot`; StoreUnavailable if none is known."""
        await self._ensure_map(timeout_s)
        owner = self._owners[slot]
        if owner is None:
            raise StoreUnavailable(f"store {self._address}: no node has slot {slot}")
        return owner

    async def run_by_slot(
        self, commands: Sequence[tuple[int, Command]], *, timeout_s: float
    ) -> list[object | StoreError]:
        """Run each command on the node of its slot, all nodes at once; an answer or error each."""
        deadline = self._now() + timeout_s
        await self._ensure_map(timeout_s)
        answers: list[object | StoreError] = [self._problem] * len(commands)
        todo = self._assign(commands, answers)
        for _ in range(MAX_REDIRECTS):
            await self._run_round(todo, answers, deadline)
            todo = self._follow(todo, answers)
            if not todo:
                break
        self._give_up(todo, answers)
        return answers

    def send_by_slot(self, commands: Sequence[tuple[int, Command]], done: OnAnswers) -> None:
        """Run each command on the node of its slot, all nodes at once, as one write each.

        `done` gets an answer or an error for each, once; nothing is raised.
        """
        if self._owners and not self._is_closed:
            _Rounds(self, commands, done).start()
        else:
            task = asyncio.create_task(self._send_with_map(commands, done))
            self._mapping.add(task)
            task.add_done_callback(self._mapping.discard)

    async def _send_with_map(
        self, commands: Sequence[tuple[int, Command]], done: OnAnswers
    ) -> None:
        try:
            await self._ensure_map(self._store_timeout_s)
        except StoreError as error:
            done([error] * len(commands))
        else:
            _Rounds(self, commands, done).start()

    def _assign(
        self, commands: Sequence[tuple[int, Command]], answers: list[object | StoreError]
    ) -> dict[Endpoint, list[tuple[int, Command]]]:
        """Return the numbered commands of each node; those of a slot without one are answered."""
        todo: dict[Endpoint, list[tuple[int, Command]]] = {}
        for index, (slot, command) in enumerate(commands):
            owner = self._owners[slot] if self._owners else None
            if owner is None:
                answers[index] = StoreUnavailable(f"store {self._address}: no node has this slot")
                self._refresh_soon()
            else:
                todo.setdefault(owner, []).append((index, command))
        return todo

    def _give_up(
        self,
        todo: dict[Endpoint, list[tuple[int, Command]]],
        answers: list[object | StoreError],
    ) -> None:
        """Answer what was redirected once too often."""
        for index, _ in (pair for own in todo.values() for pair in own):
            answers[index] = StoreUnavailable(
                f"store {self._address}: the nodes disagree on a slot"
            )

    async def close(self) -> None:
        """Close the client of every node."""
        self._is_closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait({self._refreshing})
        if self._mapping:
            await asyncio.wait(self._mapping)
        for client in self._clients.values():
            await client.close()

    async def _run_round(
        self,
        todo: dict[Endpoint, list[tuple[int, Command]]],
        answers: list[object | StoreError],
        deadline: float,
    ) -> None:
        async def run_node(endpoint: Endpoint, own: Sequence[tuple[int, Command]]) -> None:
            try:
                found = await self._client(endpoint).run_all(
                    [command for _, command in own], timeout_s=max(0.0, deadline - self._now())
                )
            except StoreError as error:
                found = [error] * len(own)
            for (index, _), answer in zip(own, found, strict=True):
                answers[index] = answer

        await asyncio.gather(*(run_node(endpoint, own) for endpoint, own in todo.items()))

    def _follow(
        self,
        todo: dict[Endpoint, list[tuple[int, Command]]],
        answers: Sequence[object | StoreError],
    ) -> dict[Endpoint, list[tuple[int, Command]]]:
        """Return the commands that were redirected, by where to; a failed node renews the map."""
        redirected: dict[Endpoint, list[tuple[int, Command]]] = {}
        for own in todo.values():
            for index, command in own:
                answer = answers[index]
                if isinstance(answer, StoreError):
                    self._refresh_soon()
                if isinstance(answer, Redirected):
                    again = Command(command.arguments, command.script, is_asking=answer.is_ask)
                    redirected.setdefault(answer.endpoint, []).append((index, again))
        return redirected

    async def _ensure_map(self, timeout_s: float) -> None:
        if self._is_closed:
            raise StoreUnavailable(f"store {self._address}: shutting down")
        if self._owners:
            return
        self._refresh_soon()
        if self._refreshing is None:
            raise self._problem
        await asyncio.wait({self._refreshing}, timeout=timeout_s)
        if not self._owners:
            raise self._problem

    def _refresh_soon(self) -> None:
        """Ask for the map in the background, unless that is done or was done a moment ago."""
        is_running = self._refreshing is not None and not self._refreshing.done()
        if not is_running and not self._is_closed:
            self._refreshing = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        await asyncio.sleep(max(0.0, self._refreshed_at + REFRESH_PAUSE_S - self._now()))
        self._refreshed_at = self._now()
        for endpoint in dict.fromkeys((*self._clients, *self._address.endpoints)):
            try:
                reply = await self._client(endpoint).run(
                    "CLUSTER", "SLOTS", timeout_s=self._store_timeout_s
                )
                self._owners = _read_slots(reply, endpoint)
            except StoreError as error:
                self._problem = StoreUnavailable(str(error))
            except Exception as error:  # noqa: BLE001 - one odd node must not hide the others
                self._defects.record(error, "the map of slots of %s cannot be read", endpoint)
            else:
                await self._retire()
                return

    async def _retire(self) -> None:
        """Close the clients of nodes that left; a busy one stays until the next time."""
        members = {*self._owners, *self._address.endpoints}
        for endpoint in [one for one in self._clients if one not in members]:
            if not self._clients[endpoint].is_busy:
                await self._clients.pop(endpoint).close()

    def _client(self, endpoint: Endpoint) -> NodeClient:
        if endpoint not in self._clients:
            self._clients[endpoint] = NodeClient(
                self._address,
                endpoint,
                store_timeout_s=self._store_timeout_s,
                on_breaker=self._on_breaker,
            )
        return self._clients[endpoint]


class _Rounds:
    """Commands on their way to the nodes, and again where they were redirected to."""

    def __init__(
        self, cluster: ClusterClient, commands: Sequence[tuple[int, Command]], done: OnAnswers
    ) -> None:
        self._cluster = cluster
        self._done = done
        self._answers: list[object | StoreError] = [None] * len(commands)
        self._todo = cluster._assign(commands, self._answers)  # noqa: SLF001 - a part of it
        self._rounds_left = MAX_REDIRECTS
        self._missing = 0

    def start(self) -> None:
        """Send to all nodes; the last answer begins the next round, or ends it."""
        self._missing = len(self._todo)
        if not self._todo:
            self._done(self._answers)
            return
        for endpoint, own in list(self._todo.items()):
            client = self._cluster._client(endpoint)  # noqa: SLF001 - a part of it
            client.send([command for _, command in own], partial(self._on_answers, own))

    def _on_answers(self, own: Sequence[tuple[int, Command]], found: Answers) -> None:
        answers = self._answers
        for (index, _), answer in zip(own, found, strict=True):
            answers[index] = answer
        self._missing -= 1
        if self._missing:
            return
        cluster = self._cluster
        self._todo = cluster._follow(self._todo, answers)  # noqa: SLF001 - a part of it
        self._rounds_left -= 1
        if self._todo and self._rounds_left:
            self.start()
            return
        cluster._give_up(self._todo, answers)  # noqa: SLF001 - a part of it
        self._done(answers)


def _hashed_part(key: bytes) -> bytes:
    """Return what a Cluster hashes of a key: its hash tag, or all of it."""
    _, opening, rest = key.partition(b"{")
    tag, closing, _ = rest.partition(b"}")
    return tag if opening and closing and tag else key


def _read_slots(reply: object, asked: Endpoint) -> list[Endpoint | None]:
    """Return the primary of each slot; a node without an address is the one that we asked."""
    owners: list[Endpoint | None] = [None] * SLOTS
    assert isinstance(reply, list), "CLUSTER SLOTS answers a list"
    for first, last, primary, *_ in reply:
        host = primary[0].decode() if primary[0] else asked.host
        owners[first : last + 1] = [Endpoint(host=host, port=primary[1])] * (last - first + 1)
    return owners
