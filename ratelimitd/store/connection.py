"""The client of one server: calls with a deadline, a few connections, and at-most-once sending.

Rules:
- Two clocks. A caller waits for `timeout_s`; the call itself goes on until the server answered or
  `store_timeout_s` passed, and then its connection is closed. So a caller that left never mixes up
  the replies, and only silence of the server counts as its failure.
- Before the first byte is written a call may be tried again; afterwards never: StoreReplyLost.
- NOSCRIPT and LOADING are replies of a server that ran nothing; those calls are sent again.
- A caller that was told StoreUnavailable had nothing sent, now or later.
- `send` writes at once on a connection that is ready, without a task; whatever is not the common
  case goes on in one.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from ratelimitd.errors import StoreError, StoreReplyLost, StoreUnavailable
from ratelimitd.store.address import Endpoint, StoreAddress
from ratelimitd.store.breaker import PROBE_TIMEOUT_S, Breaker, OnChange
from ratelimitd.store.exchange import Argument, Call, Command, read, script_call, write
from ratelimitd.store.failures import StillLoading
from ratelimitd.store.link import StoreLink
from ratelimitd.store.links import Links
from ratelimitd.store.scripts import Script

STORE_TIMEOUT_S = 0.25
# For peeks, the hash secret, metrics, and the batch in flight, which may take one more.
MAX_CONNECTIONS = 8
# A server that loads its data answers quickly that it does; asking more often helps nobody.
LOADING_PAUSE_S = 0.02

# How soon it is looked again at a reply that is there and was not read yet.
WATCH_STEP_S = 0.005

Answers = Sequence[object | StoreError]
OnAnswers = Callable[[Answers], None]


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
        self._store_timeout_s = store_timeout_s
        self._links = Links(address, endpoint)
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._tasks: set[asyncio.Task[None]] = set()
        # Calls of `send` that were written without a task, until when they may take.
        self._sent: dict[StoreLink, tuple[Call, float]] = {}
        self._watching: asyncio.TimerHandle | None = None
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
        return bool(self._tasks or self._sent)

    def send(self, commands: Sequence[Command], done: OnAnswers) -> None:
        """Write `commands` at once; `done` gets an answer, or an error, for each, once.

        The call takes the store's timeout at most; nothing is raised.
        """
        call = Call(commands)
        try:
            self._check_open()
        except StoreUnavailable as error:
            done([error] * len(commands))
            return
        link = self._links.ready()
        if link is None:
            self._send_in_task(call, done)
            return
        now_s = asyncio.get_running_loop().time()
        self._sent[link] = call, now_s + self._store_timeout_s
        if self._watching is None:
            self._watch(self._store_timeout_s)
        link.ask(write(call), len(call.owners), partial(self._on_replies, call, link, done))

    async def run_all(
        self, commands: Sequence[Command], *, timeout_s: float
    ) -> list[object | StoreError]:
        """Write `commands` at once; an answer, or the error of that one, for each in order."""
        assert commands
        self._check_open()
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
        for link in list(self._sent):
            link.hang_up()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._watching is not None:
            self._watching.cancel()
        await self.breaker.close()
        await self._links.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreUnavailable(f"store {self.endpoint}: shutting down")
        self.breaker.check()

    def _on_replies(
        self,
        call: Call,
        link: StoreLink,
        done: OnAnswers,
        replies: list[object],
        error: BaseException | None,
    ) -> None:
        """Take the replies to a call of `send`; what was not run goes on in a task."""
        del self._sent[link]
        has_timed_out = call.silence is not None
        is_good = read(call, self.endpoint, replies, error)
        self._links.put_back(link, is_good=is_good)
        if call.todo and error is None:
            self._send_in_task(call, done)
            return
        if not has_timed_out and not self._is_closed:
            self._record(call)
        done(call.answers)

    def _send_in_task(self, call: Call, done: OnAnswers) -> None:
        def on_end(task: asyncio.Task[None]) -> None:
            error: BaseException | None = None
            if task.cancelled():
                error = StoreReplyLost(f"store {self.endpoint}: shutting down")
            else:
                error = task.exception()
            if isinstance(error, StoreError):
                call.fill(error)
            elif error is not None:
                call.fill(StoreReplyLost(f"store: {type(error).__name__}; see the log"))
            done(call.answers)

        self._spawn(call, self._store_timeout_s).add_done_callback(on_end)

    def _watch(self, wait_s: float) -> None:
        """Look again when the first call of `send` may take no longer; one timer for all."""
        self._watching = asyncio.get_running_loop().call_later(wait_s, self._give_up)

    def _give_up(self) -> None:
        """Close the connections whose server was silent for too long."""
        self._watching = None
        now_s = asyncio.get_running_loop().time()
        for link, (call, until_s) in list(self._sent.items()):
            # Where it was us who were held up, the reply is there and will be read now.
            if until_s <= now_s and not link.has_arrivals:
                call.silence = self._silence(call, self._store_timeout_s)
                self.breaker.record_failure(call.silence)
                call.fill(call.silence)
                link.hang_up()
        if self._sent:
            first_s = min(until_s for _, until_s in self._sent.values())
            self._watch(max(WATCH_STEP_S, first_s - now_s))

    async def _run_one(self, command: Command, *, timeout_s: float) -> object:
        (answer,) = await self.run_all([command], timeout_s=timeout_s)
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def _probe(self) -> None:
        """Ask for a sign of life, past the breaker; leaves a connection ready on success.

        On a new connection: the kept ones may lead to where nobody answers any more.
        """
        self._links.hang_up()
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
            self._record(call)

    def _record(self, call: Call) -> None:
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
        while call.todo:
            if any(isinstance(call.answers[index], StillLoading) for index in call.todo):
                await asyncio.sleep(LOADING_PAUSE_S)
            link = self._links.ready() or await self._links.dial()
            await self._exchange(link, call)

    async def _exchange(self, link: StoreLink, call: Call) -> None:
        if call.is_abandoned:
            self._links.put_back(link, is_good=True)
            raise _Abandoned(f"store {self.endpoint}: the caller left")
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def done(replies: list[object], error: BaseException | None) -> None:
            if not answered.done():
                answered.set_result(read(call, self.endpoint, replies, error))

        link.ask(write(call), len(call.owners), done)
        try:
            is_good = await answered
        except BaseException:
            link.hang_up()
            raise
        self._links.put_back(link, is_good=is_good)
