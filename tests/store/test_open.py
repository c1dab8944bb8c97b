import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.errors import ConfigError, StoreError
from ratelimitd.store.address import parse_address
from ratelimitd.store.batcher import Send
from ratelimitd.store.hash_secret import HASH_SECRET_KEY
from ratelimitd.store.open import OpenStore, StoreOptions, open_store
from tests.store.plans import make_limit, make_plan, one
from tests.support.servers import Cluster, MakeServer, Server


async def test_open_store_decides_and_counts_its_batches(
    store_server: Server, tmp_path: Path
) -> None:
    # given
    sizes: list[int] = []

    def measure(send: Send) -> Send:
        async def send_measured(plans: Sequence[Plan]) -> Sequence[Reply | StoreError]:
            sizes.append(len(plans))
            return await send(plans)

        return send_measured

    store = await open_store(
        parse_address(store_server.url),
        data_dir=tmp_path,
        options=StoreOptions(timeout_s=5, measure=measure),
    )
    # when
    replies = await asyncio.gather(
        *(store.batcher.check(one("a", limit=3), timeout_s=5) for _ in range(5))
    )
    is_answering = await store.is_answering()
    sampled = await store.sample()
    await store.close()
    # then
    assert [reply.is_refused for reply in replies] == [False] * 3 + [True] * 2
    assert sizes == [5]
    assert is_answering
    assert sampled.keys == 2
    assert store_server.execute("GET", HASH_SECRET_KEY) == store.hash_secret.value


async def test_open_store_in_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    # given
    for node in cluster.nodes:
        node.execute("FLUSHALL")
    store = await open_store(
        parse_address(cluster.url), data_dir=tmp_path, options=StoreOptions(timeout_s=5)
    )
    # when
    replies = await asyncio.gather(
        *(store.batcher.check(one(name, limit=3), timeout_s=5) for name in "abcd" for _ in range(5))
    )
    sampled = await store.sample()
    await store.close()
    # then
    assert sum(not reply.is_refused for reply in replies) == 12
    assert sampled.keys == 5


async def test_open_store_starts_without_its_store_and_recovers_within_a_second(
    make_server: MakeServer, tmp_path: Path
) -> None:
    # given
    server = make_server("valkey9")
    server.kill()
    adopted: list[bytes] = []
    store = await open_store(
        parse_address(server.url),
        data_dir=tmp_path,
        options=StoreOptions(on_hash_secret=adopted.append),
    )
    with pytest.raises(StoreError):
        await store.batcher.check(one("a"), timeout_s=5)
    assert not await store.is_answering()
    # when
    server.start()
    server.execute("SET", HASH_SECRET_KEY, b"s" * 32)
    returned = time.monotonic()
    while not await _answers(store):
        assert time.monotonic() < returned + 10
    recovery_s = time.monotonic() - returned
    while not adopted:
        await asyncio.sleep(0.01)
        assert time.monotonic() < returned + 10
    await store.close()
    # then
    assert recovery_s < 1
    assert store.hash_secret.value == b"s" * 32


async def test_open_store_answers_at_once_while_the_breaker_is_open(
    make_server: MakeServer, tmp_path: Path
) -> None:
    # given
    told: list[bool] = []
    server = make_server("redis7")
    store = await open_store(
        parse_address(server.url),
        data_dir=tmp_path,
        options=StoreOptions(on_breaker=lambda is_open, _: told.append(is_open)),
    )
    # when
    with server.paused():
        while not told:
            await _answers(store)
        started = time.monotonic()
        for _ in range(50):
            assert not await _answers(store)
        spent_s = time.monotonic() - started
    while not await _answers(store):
        pass
    await store.close()
    # then
    assert spent_s < 2
    assert told == [True, False]


async def test_large_plans_and_long_lists_are_decided(redis7: Server, tmp_path: Path) -> None:
    # given
    store = await open_store(
        parse_address(redis7.url), data_dir=tmp_path, options=StoreOptions(timeout_s=5)
    )
    checks = [check for number in range(600) for check in one(f"long{number}").checks]
    # when
    reply = await store.batcher.check(make_plan(*checks), timeout_s=5)
    await store.close()
    # then
    assert len(reply.results) == 600
    assert make_limit().requests_per_unit == 10


async def test_second_embedded_store_in_one_process_is_refused(tmp_path: Path) -> None:
    # given
    first = await open_store(parse_address("embedded"), data_dir=tmp_path)
    # when / then
    with pytest.raises(ConfigError, match="in use by the daemon"):
        await open_store(parse_address("embedded"), data_dir=tmp_path)
    await first.close()


async def _answers(store: OpenStore) -> bool:
    try:
        await store.batcher.check(one("b"), timeout_s=5)
    except StoreError:
        await asyncio.sleep(0.01)
        return False
    return True
