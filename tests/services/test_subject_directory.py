"""What a process knows of the registry, on real stores."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from ratelimitd.decisions.subject import EMPTY, AmountOverride, Block, Subject
from ratelimitd.errors import StoreError
from ratelimitd.services.subject_cache import UNKNOWN
from ratelimitd.services.subject_directory import Change, SubjectDirectory
from ratelimitd.store.address import parse_address
from ratelimitd.store.subjects import OnRecords, Records, SubjectStore, Write
from ratelimitd.store.subscription import Subscription
from tests.support.registry import T, flush, name_of, nodes_of, opened_registry, run_at_home
from tests.support.servers import Cluster, MakeServer, Server

A, B = name_of("a"), name_of("b")
NEVER_S = None
SOON_S = 0.01


class Known:
    """A directory, its clock, what its listeners were told, and whether it learns by itself."""

    def __init__(self, registry: SubjectStore, store: Server | Cluster) -> None:
        self.now_us = 0
        self.registry = registry
        self.store = store
        self.directory = SubjectDirectory(registry, now_us=lambda: self.now_us)
        self.changes: list[Change] = []
        self.told = asyncio.Event()
        self.directory.listeners.append(self._hear)

    def _hear(self, change: Change) -> None:
        self.changes.append(change)
        self.told.set()

    async def read(self, *fields: str) -> StoreError | None:
        """Want `fields`, and wait for it."""
        answered: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
        self.directory.want(fields, answered.set_result)
        async with asyncio.timeout(T):
            return await answered

    async def write(self, *values: str, tier: str = "pro") -> None:
        writes = [Write(name_of(value), Subject(tier)) for value in values]
        await self.registry.write(writes, timeout_s=T)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a listener was told, and `condition` holds."""
        async with asyncio.timeout(T):
            while not condition():
                await self.told.wait()
                self.told.clear()

    @asynccontextmanager
    async def following(
        self, *, interval_s: float | None, has_messages: bool
    ) -> AsyncIterator[None]:
        """Follow the registry by polls, by messages, or both."""
        subscribed = asyncio.Event()

        def on_connected() -> None:
            self.directory.begin_anew()
            subscribed.set()

        subscription = Subscription(
            parse_address(self.store.url),
            self.registry.keys.channel,
            locate=lambda: self.registry.home(timeout_s=T),
            on_message=self.directory.wake,
            on_connected=on_connected,
        )
        works = [self.directory.run(interval_s)]
        if has_messages:
            works.append(subscription.run())
        else:
            subscribed.set()
        tasks = [asyncio.create_task(work) for work in works]
        try:
            async with asyncio.timeout(T):
                await subscribed.wait()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@pytest.fixture(params=["valkey9", "redis62", "cluster"])
def store(request: pytest.FixtureRequest) -> Server | Cluster:
    found: Server | Cluster = request.getfixturevalue(request.param)
    flush(found)
    return found


@pytest.fixture
async def known(store: Server | Cluster) -> AsyncIterator[Known]:
    async with opened_registry(store) as registry:
        yield Known(registry, store)


async def test_record_is_unknown_until_it_was_wanted(known: Known) -> None:
    # given
    await known.write("a")
    # when
    before = known.directory.get(A)
    error = await known.read(A, B)
    # then
    assert before is UNKNOWN
    assert error is None
    assert known.directory.get(A) == Subject("pro", version=1)
    assert known.directory.get(B) is None
    assert known.changes == []
    # and what is known is told at once, without the store
    told: list[StoreError | None] = []
    known.directory.want([A, B], told.append)
    assert told == [None]


async def test_poll_forgets_what_changed_and_tells(known: Known) -> None:
    # given
    await known.write("a", "b", "c")
    await known.directory.poll()
    await known.read(A, B)
    # when
    await known.write("a", "c", tier="free")
    await known.directory.poll()
    # then of what was cached only
    assert known.changes == [Change(frozenset({A}))]
    assert known.directory.get(A) is UNKNOWN
    assert known.directory.get(B) == Subject("pro", version=2)
    await known.read(A)
    assert known.directory.get(A) == Subject("free", version=4)


async def test_poll_puts_blocks_in_force_as_a_new_value(known: Known) -> None:
    # given
    before = known.directory.blocks
    block = Block("api", A, 100, "abuse")
    # when
    await known.registry.block([block], timeout_s=T)
    # the store's clock is far beyond the block's end, the test's is not
    await known.directory.poll()
    # then
    assert before is EMPTY
    assert len(before) == 0
    assert known.directory.blocks.find("api", [A]) == block
    assert known.changes == [Change(has_blocks=True)]


async def test_blocks_and_parts_of_records_expire_at_a_poll(known: Known) -> None:
    # given
    await known.registry.block([Block("api", A, 100), Block("api", B)], timeout_s=T)
    subject = Subject("pro", 200, (AmountOverride("x", 1),))
    await known.registry.write([Write(A, subject)], timeout_s=T)
    await known.directory.poll()
    await known.read(A)
    known.changes.clear()
    # when
    known.now_us = 99
    await known.directory.poll()
    assert known.changes == []
    known.now_us = 100
    await known.directory.poll()
    known.now_us = 200
    await known.directory.poll()
    # then
    assert known.changes == [Change(has_blocks=True), Change(frozenset({A}))]
    assert known.directory.blocks.find("api", [A]) is None
    assert known.directory.blocks.find("api", [B]) is not None
    found = known.directory.get(A)
    assert isinstance(found, Subject)
    assert (found.tier, found.overrides) == ("", subject.overrides)


async def test_expired_block_is_not_put_in_force(known: Known) -> None:
    # given
    known.now_us = 100
    # when
    await known.registry.block([Block("api", A, 100)], timeout_s=T)
    await known.directory.poll()
    # then
    assert len(known.directory.blocks) == 0
    assert known.changes == []


async def test_flushed_store_is_forgotten_whole(known: Known) -> None:
    # given
    await known.write("a")
    await known.registry.block([Block("api", A)], timeout_s=T)
    await known.directory.poll()
    await known.read(A, B)
    known.changes.clear()
    # when
    flush(known.store)
    await known.directory.poll()
    # then
    assert known.changes == [Change(is_reset=True, has_blocks=True)]
    assert known.directory.get(A) is UNKNOWN
    assert known.directory.blocks == EMPTY


async def test_more_changes_than_a_step_tells_are_all_followed(
    known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    await known.write("a", "b", "c")
    await known.directory.poll()
    await known.read(A, B)
    monkeypatch.setattr("ratelimitd.store.subjects.MAX_FIELDS", 1)
    # when
    for value in "ab":
        await known.write(value, tier="free")
    await known.directory.poll()
    # then
    assert known.directory.get(A) is known.directory.get(B) is UNKNOWN


async def test_polls_alone_find_changes(known: Known) -> None:
    async with known.following(interval_s=SOON_S, has_messages=False):
        # when
        await known.registry.block([Block("api", A)], timeout_s=T)
        # then
        await known.until(lambda: known.directory.blocks.find("api", [A]) is not None)


async def test_messages_alone_tell_of_changes(known: Known) -> None:
    await known.write("a")
    async with known.following(interval_s=NEVER_S, has_messages=True):
        # when: the first may be found because the subscription is new, the others may not
        for _ in range(3):
            await known.read(A)
            await known.write("a", tier="free")
            # then
            await known.until(lambda: known.directory.get(A) is UNKNOWN)
        await known.registry.block([Block("api", A)], timeout_s=T)
        await known.until(lambda: known.directory.blocks.find("api", [A]) is not None)


async def test_lost_subscription_is_made_again_and_what_it_missed_is_found(known: Known) -> None:
    await known.write("a")
    async with known.following(interval_s=NEVER_S, has_messages=True):
        for _ in range(2):
            await known.read(A)
            await known.write("a", tier="free")
            await known.until(lambda: known.directory.get(A) is UNKNOWN)
        await known.read(A)
        known.changes.clear()
        # when the connection is cut
        for node in nodes_of(known.store):
            node.execute("CLIENT", "KILL", "TYPE", "pubsub")
        # then the cache begins anew, because messages may have been lost
        await known.until(lambda: any(change.is_reset for change in known.changes))
        assert known.directory.get(A) is UNKNOWN
        await known.registry.block([Block("api", A)], timeout_s=T)
        await known.until(lambda: known.directory.blocks.find("api", [A]) is not None)


async def test_beginning_anew_forgets_what_did_not_change(known: Known) -> None:
    # given
    await known.write("a")
    await known.directory.poll()
    await known.read(A)
    # when
    known.directory.begin_anew()
    await known.directory.poll()
    await known.directory.poll()
    # then once
    assert known.changes == [Change(is_reset=True)]
    assert known.directory.get(A) is UNKNOWN


async def test_beginning_anew_that_fails_is_done_later(known: Known) -> None:
    # given
    await known.write("a")
    await known.directory.poll()
    await known.read(A)
    blocks = known.registry.keys.blocks
    run_at_home(known.store, known.registry, "SET", blocks, "oops")
    known.directory.begin_anew()
    with pytest.raises(StoreError):
        await known.directory.poll()
    assert known.changes == []
    # when
    run_at_home(known.store, known.registry, "DEL", blocks)
    await known.directory.poll()
    # then
    assert known.changes == [Change(is_reset=True)]


async def test_beginning_anew_with_an_empty_store_ends_all_blocks(known: Known) -> None:
    # given
    await known.registry.block([Block("api", A)], timeout_s=T)
    await known.directory.poll()
    # when
    flush(known.store)
    known.directory.begin_anew()
    await known.directory.poll()
    # then
    assert known.directory.blocks == EMPTY


class Late(SubjectStore):
    """Reads at once, and tells when the test says so."""

    def hold(self) -> None:
        self.held: list[Callable[[], None]] = []
        self.has_read = asyncio.Event()

    def send_get(self, fields: Sequence[str], done: OnRecords) -> None:
        def on_records(found: Records | StoreError) -> None:
            self.held.append(lambda: done(found))
            self.has_read.set()

        super().send_get(fields, on_records)


@pytest.mark.parametrize("is_flushed", [False, True])
async def test_record_that_changes_on_its_way_here_is_read_again(
    valkey9: Server, *, is_flushed: bool
) -> None:
    # given an old record that was read and is not here yet
    flush(valkey9)
    async with opened_registry(valkey9, kind=Late) as registry:
        assert isinstance(registry, Late)
        registry.hold()
        known = Known(registry, valkey9)
        await known.write("a")
        await known.directory.poll()
        told: list[StoreError | None] = []
        known.directory.want([A], told.append)
        await registry.has_read.wait()
        registry.has_read.clear()
        # when a poll finds the new one, or none at all
        if is_flushed:
            flush(valkey9)
        else:
            await known.write("a", tier="free")
        await known.directory.poll()
        registry.held.pop()()
        assert told == []
        await registry.has_read.wait()
        registry.held.pop()()
        # then
        assert told == [None]
        expected = None if is_flushed else Subject("free", version=2)
        assert known.directory.get(A) == expected


async def test_store_that_is_away_leaves_what_was_known(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    # given
    server = make_server("valkey9")
    async with opened_registry(server, timeout_s=0.2) as registry:
        known = Known(registry, server)
        await known.write("a")
        await known.registry.block([Block("api", A)], timeout_s=T)
        await known.directory.poll()
        await known.read(A)
        # when
        server.kill()
        await known.directory.look()
        error = await known.read(B)
        # then
        assert isinstance(error, StoreError)
        assert known.directory.get(B) is UNKNOWN
        assert known.directory.get(A) == Subject("pro", version=1)
        assert known.directory.blocks.find("api", [A]) is not None
        # when it is back, without its data
        server.start()
        async with asyncio.timeout(T):
            while known.directory.blocks != EMPTY:
                await known.directory.look()
                await asyncio.sleep(0)
        # then
        assert known.directory.get(A) is UNKNOWN
    assert "subjects and blocks stay" not in caplog.text


async def test_error_of_a_store_that_answers_is_logged_once(
    known: Known, caplog: pytest.LogCaptureFixture
) -> None:
    # given
    run_at_home(known.store, known.registry, "SET", known.registry.keys.meta, "oops")
    # when
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await known.directory.look()
    # then
    assert caplog.text.count("subjects and blocks stay as they were last known") == 1


async def test_directory_without_records_costs_one_small_command_for_a_poll(
    known: Known,
) -> None:
    # given
    await known.directory.poll()
    for node in nodes_of(known.store):
        node.execute("CONFIG", "RESETSTAT")
    # when
    for _ in range(5):
        await known.directory.poll()
    # then
    calls: dict[str, int] = {}
    for node in nodes_of(known.store):
        stats = node.client().info("commandstats")
        for name, one in stats.items():
            calls[name] = calls.get(name, 0) + one["calls"]
    assert calls["cmdstat_hmget"] == 5
    assert "cmdstat_evalsha" not in calls


async def test_listener_that_fails_does_not_keep_others_from_being_told(
    known: Known, caplog: pytest.LogCaptureFixture
) -> None:
    # given
    def fail(_: Change) -> None:
        raise ZeroDivisionError

    known.directory.listeners.insert(0, fail)
    # when
    await known.registry.block([Block("api", A)], timeout_s=T)
    await known.directory.poll()
    # then
    assert known.changes == [Change(has_blocks=True)]
    assert "a listener to changes of subjects failed" in caplog.text


async def test_directory_that_closes_tells_those_who_wait(make_server: MakeServer) -> None:
    # given
    server = make_server("valkey9")
    async with opened_registry(server) as registry, AsyncExitStack() as stack:
        known = Known(registry, server)
        await known.directory.poll()
        stack.enter_context(server.paused())
        told: list[StoreError | None] = []
        known.directory.want([A], told.append)
        # when
        known.directory.close()
        # then
        assert [type(one).__name__ for one in told] == ["StoreUnavailable"]
