import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ratelimitd.errors import ConfigError, StoreError
from ratelimitd.store.address import AddressOptions, parse_address
from ratelimitd.store.batcher import Send
from ratelimitd.store.hash_secret import HASH_SECRET_KEY, Commands, HashSecret
from ratelimitd.store.open import OpenStore, StoreOptions, open_store
from ratelimitd.store.port import OnReplies
from ratelimitd.store.wire import PackedPlan
from tests.store.plans import make_limit, make_plan, one
from tests.support.servers import Cluster, MakeServer, Server


async def test_open_store_decides_and_counts_its_batches(
    store_server: Server, tmp_path: Path
) -> None:
    # given
    sizes: list[int] = []

    def measure(send: Send) -> Send:
        def send_measured(plans: Sequence[PackedPlan], done: OnReplies) -> None:
            sizes.append(len(plans))
            send(plans, done)

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
    state = await store.look()
    sampled = await store.sample()
    await store.close()
    # then
    assert [reply.is_refused for reply in replies] == [False] * 3 + [True] * 2
    assert sizes == [5]
    assert (state.is_up, str(state)) == (True, "")
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
    store = await open_store(parse_address(server.url), data_dir=tmp_path)
    with pytest.raises(StoreError):
        await store.batcher.check(one("a"), timeout_s=5)
    state = await store.look()
    # when
    server.start()
    server.execute("SET", HASH_SECRET_KEY, b"s" * 32)
    returned = time.monotonic()
    while not await _answers(store):
        assert time.monotonic() < returned + 10
    recovery_s = time.monotonic() - returned
    while store.hash_secret.value != b"s" * 32:
        await asyncio.sleep(0.01)
        assert time.monotonic() < returned + 10
    await store.close()
    # then
    assert recovery_s < 1
    assert not state.is_up
    assert "cannot connect" in str(state)


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


@pytest.mark.parametrize(
    ("url", "options", "line"),
    [
        (
            "redis://localhost:1",
            AddressOptions(password_file=Path("/nowhere/secret")),
            "store password file /nowhere/secret: No such file or directory",
        ),
        (
            "rediss://localhost:1",
            AddressOptions(tls_ca_file=Path("/nowhere/ca")),
            "store TLS files /nowhere/ca: No such file or directory",
        ),
        ("redis://a..b:1", AddressOptions(), "store URL: 'a..b' is not a host name"),
    ],
)
async def test_store_that_can_never_be_reached_is_not_opened(
    tmp_path: Path, url: str, options: AddressOptions, line: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        await open_store(parse_address(url, options), data_dir=tmp_path)

    assert str(raised.value) == line


async def test_host_that_nobody_knows_is_told(tmp_path: Path) -> None:
    opened = await open_store(
        parse_address("redis://no-such-host.invalid:1"),
        data_dir=tmp_path,
        options=StoreOptions(timeout_s=10),
    )
    state = await opened.look()
    await opened.close()

    assert "cannot look up its host: " in str(state)


async def test_store_is_maintained_after_a_defect(
    redis7: Server, caplog: pytest.LogCaptureFixture
) -> None:
    # given
    mended = asyncio.Event()

    class Broken(HashSecret):
        async def refresh(self, client: Commands, *, timeout_s: float) -> bool:
            if not caplog.records:
                raise ValueError("a defect")
            mended.set()
            return await super().refresh(client, timeout_s=timeout_s)

    # when
    opened = OpenStore(parse_address(redis7.url), StoreOptions(), None)
    opened.hash_secret = Broken()
    await asyncio.wait_for(mended.wait(), 10)
    await opened.close()
    # then
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == "the store's hash secret cannot be kept"


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
