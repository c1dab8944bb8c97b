import asyncio
from dataclasses import replace

import pytest

from ratelimitd.decisions.plan import Check
from ratelimitd.errors import StoreReplyLost, StoreUnavailable
from ratelimitd.policy.model import Algorithm
from ratelimitd.store.batcher import Batcher
from ratelimitd.store.scripts import Scripts
from ratelimitd.store.single import MAX_KEYS, SingleStore
from tests.store.conftest import MakeClient
from tests.store.plans import make_key, make_limit, make_plan, one
from tests.support.odd_store import ODD_REPLIES, odd_store
from tests.support.servers import Server
from tests.support.stores import check


async def test_check_charges_until_the_limit(
    store_server: Server, make_client: MakeClient, scripts: Scripts
) -> None:
    # given
    store = SingleStore(make_client(store_server.url), scripts)
    # when
    replies = [(await check(store, [one("a", limit=2)], timeout_s=5))[0] for _ in range(3)]
    # then
    assert [reply.is_refused for reply in replies] == [False, False, True]


async def test_check_of_a_list_is_one_script_call(
    store_server: Server, make_client: MakeClient, scripts: Scripts
) -> None:
    # given
    store = SingleStore(make_client(store_server.url), scripts)
    await check(store, [one("a")], timeout_s=5)
    store_server.execute("CONFIG", "RESETSTAT")
    # when
    await check(store, [one(f"k{number}") for number in range(300)], timeout_s=5)
    # then
    stats = store_server.client().info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 1


async def test_peek_charges_nothing(
    store_server: Server, make_client: MakeClient, scripts: Scripts
) -> None:
    # given
    store = SingleStore(make_client(store_server.url), scripts)
    # when
    await store.peek([one("a")], timeout_s=5)
    # then
    assert store_server.execute("DBSIZE") == 0


async def test_check_reloads_a_flushed_script(
    store_server: Server, make_client: MakeClient, scripts: Scripts
) -> None:
    # given
    store = SingleStore(make_client(store_server.url), scripts)
    await check(store, [one("a")], timeout_s=5)
    store_server.execute("SCRIPT", "FLUSH")
    # when
    (reply,) = await check(store, [one("a")], timeout_s=5)
    # then
    assert reply.results[0].used_after == 2


async def test_check_from_many_tasks_charges_each_once(
    store_server: Server, make_client: MakeClient, scripts: Scripts
) -> None:
    # given
    store = SingleStore(make_client(store_server.url), scripts)
    # when
    replies = await asyncio.gather(
        *(check(store, [one("a", limit=30)], timeout_s=5) for _ in range(50))
    )
    # then
    assert sum(not reply[0].is_refused for reply in replies) == 30


async def test_check_counts_garbage_as_absent_and_says_so(
    store_server: Server, make_client: MakeClient, scripts: Scripts
) -> None:
    # given
    told: list[int] = []
    store = SingleStore(make_client(store_server.url), scripts, on_unreadable=told.append)
    store_server.execute("SET", make_key("a"), "garbage")
    # when
    (reply,) = await check(store, [one("a")], timeout_s=5)
    # then
    assert reply.results[0].used_after == 1
    assert told == [1]


async def test_debt_that_no_counter_remembers_is_told(
    redis7: Server, make_client: MakeClient, scripts: Scripts
) -> None:
    # given a bucket of two, and a debt of one
    told: list[int] = []
    store = SingleStore(make_client(redis7.url), scripts, on_lost_debt=told.append)
    limit = replace(make_limit(2), algorithm=Algorithm.GCRA, max_debt=1)
    # when
    for _ in range(3):
        await check(store, [make_plan(Check(make_key("lost"), limit, 2))], timeout_s=5)
    # then the first fits, the second leaves one out, and the third all
    assert told == [1, 2]


async def test_check_refuses_a_list_that_no_script_call_could_take(
    redis7: Server, make_client: MakeClient, scripts: Scripts
) -> None:
    # given
    store = SingleStore(make_client(redis7.url), scripts)
    # when
    with pytest.raises(StoreUnavailable, match="more than 1024"):
        await check(store, [one(f"k{number}") for number in range(MAX_KEYS + 1)], timeout_s=5)
    # then
    assert await check(store, [], timeout_s=5) == []


@pytest.mark.parametrize("reply", ODD_REPLIES.values(), ids=ODD_REPLIES)
async def test_reply_that_is_no_scripts_is_perhaps_spent_and_the_queue_goes_on(
    make_client: MakeClient, scripts: Scripts, caplog: pytest.LogCaptureFixture, reply: bytes
) -> None:
    # given
    async with odd_store(reply) as server:
        batcher = Batcher(SingleStore(make_client(f"redis://{server.address}"), scripts).send)
        # when
        for _ in range(3):
            with pytest.raises(StoreReplyLost, match="its reply cannot be read"):
                await batcher.check(one("a"), timeout_s=5)
        # then
        assert server.scripts == 3
        assert "a reply of the store cannot be read" in caplog.text
        async with asyncio.timeout(5):
            await batcher.close()
