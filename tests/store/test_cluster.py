import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ratelimitd.decisions.keys import partition_of, slot_of
from ratelimitd.decisions.plan import Check, Plan
from ratelimitd.errors import StoreError, StoreReplyLost, StoreUnavailable
from ratelimitd.store.address import parse_address
from ratelimitd.store.batcher import Batcher
from ratelimitd.store.cluster import ClusterStore
from ratelimitd.store.open import open_store
from ratelimitd.store.scripts import Script, Scripts
from ratelimitd.store.topology import ClusterClient
from tests.store.conftest import MakeClient
from tests.store.plans import keys_of_all_partitions, make_limit, make_plan, one
from tests.support.odd_store import ODD_REPLIES, odd_store
from tests.support.servers import SLOTS, Cluster, Server, start_cluster
from tests.support.stores import check, check_each

T = 5.0


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[ClusterClient]:
    for node in cluster.nodes:
        node.execute("FLUSHALL")
    made = ClusterClient(
        parse_address(cluster.url), store_timeout_s=T, now=asyncio.get_running_loop().time
    )
    yield made
    await made.close()


@pytest.fixture
def store(client: ClusterClient, scripts: Scripts) -> ClusterStore:
    return ClusterStore(client, scripts)


def far_apart(count: int = 3) -> list[bytes]:
    """Return counter keys on `count` partitions spread over the nodes."""
    by_slot = sorted(keys_of_all_partitions().items(), key=lambda pair: slot_of(pair[0]))
    return [by_slot[(2 * index + 1) * len(by_slot) // (2 * count)][1] for index in range(count)]


async def count_of(store: ClusterStore, key: bytes) -> int:
    """Return what a counter holds, without charging it."""
    (reply,) = await store.peek([make_plan(Check(key, make_limit(), 0))], timeout_s=T)
    return reply.results[0].used_before


async def test_check_in_a_cluster_admits_exactly_the_limit(store: ClusterStore) -> None:
    # given
    plans = [one(name, limit=5) for name in "abcdefgh" for _ in range(8)]
    # when
    replies = await check(store, plans, timeout_s=T)
    # then
    assert [reply.is_refused for reply in replies] == [
        False,
        False,
        False,
        False,
        False,
        True,
        True,
        True,
    ] * 8


async def test_check_calls_one_script_per_partition_and_writes_once(
    store: ClusterStore, cluster: Cluster
) -> None:
    # given
    keys = list(keys_of_all_partitions().values())
    plans = [make_plan(Check(key, make_limit(), 1)) for key in keys for _ in range(3)]
    await check(store, plans, timeout_s=T)
    for node in cluster.nodes:
        node.execute("CONFIG", "RESETSTAT")
    # when
    await check(store, plans, timeout_s=T)
    # then
    calls = [
        node.client().info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
        for node in cluster.nodes
    ]
    assert sum(calls) == len(keys)
    assert min(calls) > 0


async def test_refusal_in_one_partition_gives_back_what_others_charged(
    store: ClusterStore,
) -> None:
    # given
    first, second, third = far_apart()
    admitted_only = make_limit(10, counts_denied=False)
    plan = make_plan(
        Check(first, admitted_only, 3),
        Check(second, make_limit(0, counts_denied=False), 1),
        Check(third, make_limit(10), 2),
        Check(first, admitted_only, 1),
    )
    # when
    (reply,) = await check(store, [plan], timeout_s=T)
    # then
    assert reply.is_refused
    assert [result.is_over for result in reply.results] == [False, True, False, False]
    assert [result.used_final for result in reply.results] == [0, 0, 2, 0]
    assert [await count_of(store, key) for key in (first, second, third)] == [0, 0, 2]


async def test_charges_that_are_not_given_back_are_counted_and_told(
    client: ClusterClient, scripts: Scripts, caplog: pytest.LogCaptureFixture
) -> None:
    # given
    told: list[tuple[int, int]] = []
    text = b"return redis.error_reply('ERR broken')"
    broken = Script("give_back", text, hashlib.sha1(text, usedforsecurity=False).hexdigest())
    first, second, third = far_apart()
    plan = make_plan(
        Check(first, make_limit(10, counts_denied=False), 1),
        Check(second, make_limit(0, counts_denied=False), 1),
        Check(third, make_limit(10, counts_denied=False), 1),
    )
    # when
    for give_back in (scripts.give_back, broken):
        store = ClusterStore(
            client,
            replace(scripts, give_back=give_back),
            on_give_back=lambda *counts: told.append(counts),
        )
        await check(store, [plan], timeout_s=T)
        await store.close()
    # then
    assert told == [(2, 0), (0, 2)]
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("2 charges of refused requests stay spent until their window ends")


async def test_admitted_request_is_charged_in_every_partition(store: ClusterStore) -> None:
    # given
    keys = far_apart()
    plan = make_plan(*(Check(key, make_limit(10, counts_denied=False), 2) for key in keys))
    # when
    (reply,) = await check(store, [plan], timeout_s=T)
    # then
    assert not reply.is_refused
    assert [await count_of(store, key) for key in keys] == [2, 2, 2]


@pytest.mark.parametrize(
    ("limits", "passing_quota", "is_refused"),
    [((0, 0, 0), 0, True), ((0, 0, 9), 0, False), ((0, 0, 0), 1, False)],
)
async def test_quota_limits_refuse_only_if_all_partitions_are_over(
    store: ClusterStore, limits: tuple[int, ...], passing_quota: int, is_refused: bool
) -> None:
    # given
    plan = make_plan(
        *(
            Check(key, make_limit(limit, is_quota=True, counts_denied=False), 1)
            for key, limit in zip(far_apart(), limits, strict=True)
        ),
        passing_quota=passing_quota,
    )
    # when
    (reply,) = await check(store, [plan], timeout_s=T)
    # then
    assert reply.is_refused == is_refused
    charged = [await count_of(store, check.key) for check in plan.checks]
    assert charged == ([0, 0, 0] if is_refused else [1, 1, 1])


async def test_shadow_limit_over_in_one_partition_refuses_nothing(store: ClusterStore) -> None:
    # given
    first, second, _ = far_apart()
    plan = make_plan(Check(first, make_limit(0, is_shadow=True), 1), Check(second, make_limit(), 1))
    # when
    (reply,) = await check(store, [plan], timeout_s=T)
    # then
    assert not reply.is_refused


async def test_denied_request_over_partitions_is_refused_and_costs_nothing(
    store: ClusterStore,
) -> None:
    # given
    keys = far_apart()
    plan = make_plan(
        *(Check(key, make_limit(counts_denied=False), 1) for key in keys), is_denied=True
    )
    # when
    (reply,) = await check(store, [plan], timeout_s=T)
    # then
    assert reply.is_refused
    assert [await count_of(store, key) for key in keys] == [0, 0, 0]


async def test_peek_over_partitions_charges_nothing(store: ClusterStore, cluster: Cluster) -> None:
    # given
    plan = make_plan(*(Check(key, make_limit(1, counts_denied=False), 2) for key in far_apart()))
    # when
    (reply,) = await store.peek([plan], timeout_s=T)
    # then
    assert reply.is_refused
    assert [node.execute("DBSIZE") for node in cluster.nodes] == [0, 0, 0]


async def test_concurrent_requests_over_partitions_admit_exactly_the_limit(
    store: ClusterStore,
) -> None:
    # given
    first, second, _ = far_apart()
    plan = make_plan(Check(first, make_limit(30), 1), Check(second, make_limit(1000), 1))
    # when
    replies = await asyncio.gather(*(check(store, [plan], timeout_s=T) for _ in range(50)))
    # then
    assert sum(not reply.is_refused for (reply,) in replies) == 30


async def test_moved_slot_is_followed_and_charged_once(
    store: ClusterStore, cluster: Cluster
) -> None:
    # given
    key = far_apart()[0]
    slot = slot_of(partition_of(key))
    plan = make_plan(Check(key, make_limit(), 1))
    await check(store, [plan], timeout_s=T)
    cluster.nodes[0].execute("DEL", key)
    # when
    _give_slot(cluster, slot, 1)
    try:
        (moved,) = await check(store, [plan], timeout_s=T)
        (again,) = await check(store, [plan], timeout_s=T)
    finally:
        cluster.nodes[1].execute("DEL", key)
        _give_slot(cluster, slot, 0)
    # then
    assert [moved.results[0].used_after, again.results[0].used_after] == [1, 2]


async def test_slot_on_the_move_is_asked_where_it_goes(
    store: ClusterStore, cluster: Cluster
) -> None:
    # given: the key is not on the old node any more, so it answers ASK
    key = far_apart()[0]
    slot = slot_of(partition_of(key))
    plan = make_plan(Check(key, make_limit(), 1))
    await check(store, [plan], timeout_s=T)
    cluster.nodes[0].execute("DEL", key)
    old, new = _node_id(cluster.nodes[0]), _node_id(cluster.nodes[1])
    cluster.nodes[1].execute("CLUSTER", "SETSLOT", slot, "IMPORTING", old)
    cluster.nodes[0].execute("CLUSTER", "SETSLOT", slot, "MIGRATING", new)
    # when
    try:
        (reply,) = await check(store, [plan], timeout_s=T)
        kept = cluster.nodes[1].execute("CLUSTER", "COUNTKEYSINSLOT", slot)
    finally:
        for node in cluster.nodes[:2]:
            node.execute("CLUSTER", "SETSLOT", slot, "STABLE")
        cluster.nodes[1].execute("FLUSHALL")
    # then
    assert reply.results[0].used_after == 1
    assert kept == 1


async def test_single_server_behind_a_cluster_url_says_so(redis7: Server, scripts: Scripts) -> None:
    # given
    client = ClusterClient(
        parse_address(f"redis+cluster://127.0.0.1:{redis7.port}"),
        now=asyncio.get_running_loop().time,
    )
    # when
    with pytest.raises(StoreUnavailable, match="it is no Cluster; use redis://"):
        await check(ClusterStore(client, scripts), [one("a")], timeout_s=T)
    # then
    await client.close()


@pytest.fixture
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = start_cluster("redis7", tmp_path_factory.mktemp("cluster"))
    yield started
    started.stop()


async def test_dead_node_fails_its_own_requests_and_returns(
    own_cluster: Cluster, scripts: Scripts
) -> None:
    # given
    for node in own_cluster.nodes:
        node.execute("CONFIG", "SET", "cluster-require-full-coverage", "no")
    client = ClusterClient(
        parse_address(own_cluster.url), store_timeout_s=5, now=asyncio.get_running_loop().time
    )
    store = ClusterStore(client, scripts)
    keys = far_apart()
    plans = [make_plan(Check(key, make_limit(), 1)) for key in keys]
    spanning = make_plan(*(Check(key, make_limit(), 1) for key in keys))
    await check(store, plans, timeout_s=T)
    # when
    own_cluster.nodes[2].kill()
    answers = await check_each(store, [*plans, spanning], timeout_s=T)
    own_cluster.nodes[2].start()
    recovered = await _eventually(store, plans)
    await store.close()
    await client.close()
    # then
    assert [isinstance(answer, StoreError) for answer in answers] == [False, False, True, True]
    assert isinstance(answers[3], StoreReplyLost)
    assert recovered


async def test_look_at_a_cluster_tells_how_many_nodes_answer(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    # given
    opened = await open_store(parse_address(own_cluster.url), data_dir=tmp_path)
    whole = await opened.look()
    # when
    own_cluster.nodes[1].kill()
    part = await opened.look()
    await opened.close()
    # then
    assert (whole.is_up, str(whole)) == (True, "")
    assert (part.is_up, part.answering, part.servers) == (True, 2, 3)
    assert str(part).startswith("2 of 3 nodes answer: store ")


async def _eventually(store: ClusterStore, plans: list[Plan]) -> bool:
    deadline = asyncio.get_running_loop().time() + 20
    while asyncio.get_running_loop().time() < deadline:
        answers = await check_each(store, plans, timeout_s=T)
        if not any(isinstance(answer, StoreError) for answer in answers):
            return True
        await asyncio.sleep(0.05)
    return False


async def test_keys_of_every_partition_are_served_by_their_node(
    cluster: Cluster, make_client: MakeClient
) -> None:
    # given
    clients = [make_client(node.tcp_url) for node in cluster.nodes]
    # when
    share = SLOTS // len(clients)
    for tag, key in keys_of_all_partitions().items():
        owner = clients[min(slot_of(tag) // share, len(clients) - 1)]
        # then: a wrong slot would be answered MOVED
        await owner.run("GET", key, timeout_s=T)


def _node_id(node: Server) -> str:
    answer = node.execute("CLUSTER", "MYID")
    assert isinstance(answer, bytes)
    return answer.decode()


def _give_slot(cluster: Cluster, slot: int, index: int) -> None:
    owner = _node_id(cluster.nodes[index])
    order = [cluster.nodes[index], *(n for i, n in enumerate(cluster.nodes) if i != index)]
    for node in order:
        node.execute("CLUSTER", "SETSLOT", slot, "NODE", owner)


@pytest.mark.parametrize("reply", ODD_REPLIES.values(), ids=ODD_REPLIES)
async def test_node_whose_reply_is_no_scripts_does_not_end_the_queue(
    scripts: Scripts, caplog: pytest.LogCaptureFixture, reply: bytes
) -> None:
    # given
    async with odd_store(reply) as server:
        client = ClusterClient(
            parse_address(f"redis+cluster://{server.address}"),
            store_timeout_s=T,
            now=asyncio.get_running_loop().time,
        )
        batcher = Batcher(ClusterStore(client, scripts).send)
        split = make_plan(*[Check(key, make_limit(), 1) for key in far_apart(2)])
        # when
        for plan in (one("a"), split, one("a")):
            with pytest.raises(StoreReplyLost, match="its reply cannot be read"):
                await batcher.check(plan, timeout_s=T)
        # then
        assert server.scripts == 4
        assert "a reply of the store cannot be read" in caplog.text
        async with asyncio.timeout(T):
            await batcher.close()
        await client.close()
