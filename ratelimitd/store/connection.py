"""The client of one server: calls with a deadline, a few connections, and at-most-once sending.

Rules:
- Two clocks. A caller waits for `timeout_s`; the call itself goes on, on a task of its own, until
  the server answered or `store_timeout_s` passed, and then its connection is closed. So a caller
  that left never mixes up the replies, and only silence of the server counts as its failure.
- Before the first byte is written a call may be tried again; afterwards never: StoreReplyLost.
- NOSCRIPT and LOADING are replies of a server that ran nothing; those calls are sent again.
- A caller that was told StoreUnavailable had nothing sent, now or later.
"""

import asyncio
from collections.abc import Sequence

from redis.asyncio.connection import AbstractConnection

from ratelimitd.errors import StoreError, StoreReplyLost, StoreUnavailable
from ratelimitd.store.address import Endpoint, StoreAddress
from ratelimitd.store.breaker import PROBE_TIMEOUT_S, Breaker, OnChange
from ratelimitd.store.dial import close, dial, hang_up, is_alive
from ratelimitd.store.exchange import Argument, Call, Command, exchange, script_call
from ratelimitd.store.failures import ScriptMissing, StillLoading
from ratelimitd.store.scripts import Script

STORE_TIMEOUT_S = 0.25
# One for the batch in flight, the others for peeks, the hash secret and metrics.
MAX_CONNECTIONS = 8
# A server that loads its data answers quickly that it does; asking more often helps nobody.
LOADING_PAUSE_S = 0.02
# A connection that could not be made is tried once more: a proxy may have moved on.
MAX_DIALS = 2
REDIAL_PAUSE_S = 0.01


class _Abandoned(StoreUnavailable):
    """The caller left before anything was written; no failure of the server."""


class NodeClient:
    """Talks to the server at `endpoint`; its breaker speaks for that server alone."""

    def __init__(
        self,
        address: StoreAddress,
        endpoint: Endpoint,
        *,
        store_timeout_s: float = STORE_TIMEOUT_S,
        on_breaker: OnChange | None = None,
    ) -> None:
        """Connect to nothing yet: the first call dials."""
        self.endpoint = endpoint
        self.breaker = Breaker(self._probe, on_change=on_breaker)
        self._address = address
        self._store_timeout_s = store_timeout_s
        self._idle: list[AbstractConnection] = []
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def run_script(
        self,
        script: Script,
        keys: Sequence[bytes],
        argv: Sequence[Argument],
        *,
        timeout_s: float,
    ) -> list[int]:
        """Run one script once and return its reply, a flat list of integers."""
        answer = await self._run_one(script_call(script, keys, argv), timeout_s=timeout_s)
        if not isinstance(answer, list):
            raise StoreReplyLost(f"store {self.endpoint}: {script.name} answered no list")
        return answer

    async def run(self, *arguments: Argument, timeout_s: float) -> object:
        """Run one command once and return its reply."""
        return await self._run_one(Command(arguments), timeout_s=timeout_s)

    async def run_on(self, key: bytes, *arguments: Argument, timeout_s: float) -> object:
        """Run one command about `key` once; this server has every key."""
        assert key in arguments
        return await self.run(*arguments, timeout_s=timeout_s)

    @property
    def is_busy(self) -> bool:
        """Whether calls are under way."""
        return bool(self._tasks)

    async def run_all(
        self, commands: Sequence[Command], *, timeout_s: float
    ) -> list[object | StoreError]:
        """Write `commands` at once; an answer, or the error of that one, for each in order."""
        assert commands
        if self._is_closed:
            raise StoreUnavailable(f"store {self.endpoint}: shutting down")
        self.breaker.check()
        call = Call(commands)
        task = self._spawn(call, self._store_timeout_s)
        try:
            done, _ = await asyncio.wait({task}, timeout=timeout_s)
        except asyncio.CancelledError:
            call.is_abandoned = True
            raise
        if done:
            task.result()
            return call.answers
        call.is_abandoned = True
        if call.is_written:
            raise StoreReplyLost(f"store {self.endpoint}: no answer in time")
        raise StoreUnavailable(f"store {self.endpoint}: no connection in time")

    async def close(self) -> None:
        """End the calls under way and close every connection."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.breaker.close()
        idle, self._idle = self._idle, []
        # Each may wait for its server; together they wait as long as one.
        await asyncio.gather(*map(close, idle))

    async def _run_one(self, command: Command, *, timeout_s: float) -> object:
        (answer,) = await self.run_all([command], timeout_s=timeout_s)
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def _probe(self) -> None:
        """Ask for a sign of life, past the breaker; leaves a connection ready on success.

        On a new connection: the kept ones may lead to where nobody answers any more.
        """
        while self._idle:
            await hang_up(self._idle.pop())
        call = Call([Command(("PING",))])
        await self._spawn(call, PROBE_TIMEOUT_S)
        if call.silence is not None:
            raise call.silence
        # A server that answers with an error is there: the calls will tell its text.
        if isinstance(call.answers[0], StillLoading):
            raise call.answers[0]

    def _spawn(self, call: Call, timeout_s: float) -> asyncio.Task[None]:
        task = asyncio.create_task(self._run_call(call, timeout_s))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # The caller may have left: nobody else looks at the error.
            task.exception()

    async def _run_call(self, call: Call, timeout_s: float) -> None:
        """Carry one call through; what the breaker learns is decided here."""
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                await self._exchange_until_answered(call)
        except TimeoutError as error:
            call.silence = failure = self._silence(call, timeout_s)
            self.breaker.record_failure(failure)
            if not call.is_written:
                raise failure from error
            call.fill(failure)
        except _Abandoned:
            raise
        except StoreUnavailable as error:
            self.breaker.record_failure(error)
            raise
        else:
            if call.silence is None:
                self.breaker.record_success()
            else:
                self.breaker.record_failure(call.silence)

    def _silence(self, call: Call, timeout_s: float) -> StoreError:
        waited = f"{timeout_s * 1000:.0f} ms"
        if any(isinstance(answer, StillLoading) for answer in call.answers):
            return StillLoading(f"store {self.endpoint}: it is still loading its data")
        if call.is_written:
            return StoreReplyLost(f"store {self.endpoint}: no answer within {waited}")
        return StoreUnavailable(f"store {self.endpoint}: no connection within {waited}")

    async def _exchange_until_answered(self, call: Call) -> None:
        """Send what still has to run, again while the server says that it ran nothing."""
        todo = list(range(len(call.commands)))
        scripts: list[Script] = []
        has_loaded = False
        while todo:
            connection = await self._connect()
            await self._exchange(connection, call, todo, scripts)
            missing = [i for i in todo if isinstance(call.answers[i], ScriptMissing)]
            todo = [i for i in todo if isinstance(call.answers[i], StillLoading)]
            if todo:
                await asyncio.sleep(LOADING_PAUSE_S)
            if missing and not has_loaded:
                found = (call.commands[i].script for i in missing)
                scripts = list({script.sha: script for script in found if script}.values())
                todo = sorted(todo + missing)
                has_loaded = True

    async def _connect(self) -> AbstractConnection:
        while self._idle:
            connection = self._idle.pop()
            if is_alive(connection):
                return connection
            await hang_up(connection)
        for _ in range(MAX_DIALS - 1):
            try:
                return await dial(self._address, self.endpoint)
            except StoreUnavailable:
                await asyncio.sleep(REDIAL_PAUSE_S)
        return await dial(self._address, self.endpoint)

    async def _exchange(
        self, connection: AbstractConnection, call: Call, todo: list[int], scripts: list[Script]
    ) -> None:
        if call.is_abandoned:
            await self._keep(connection)
            raise _Abandoned(f"store {self.endpoint}: the caller left")
        try:
            is_good = await exchange(connection, self.endpoint, call, todo, scripts)
        except BaseException:
            await hang_up(connection)
            raise
        if is_good:
            await self._keep(connection)
        else:
            await hang_up(connection)

    async def _keep(self, connection: AbstractConnection) -> None:
        if self._is_closed:
            await close(connection)
        else:
            self._idle.append(connection)
