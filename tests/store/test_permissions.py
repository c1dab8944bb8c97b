import asyncio
import logging
import re
from pathlib import Path

import pytest

from ratelimitd.decisions.subject import Block, Subject
from ratelimitd.errors import StoreReplyLost, StoreUnavailable
from ratelimitd.services.subject_directory import SubjectDirectory
from ratelimitd.store.address import parse_address
from ratelimitd.store.cluster import ClusterStore
from ratelimitd.store.hash_secret import HashSecret
from ratelimitd.store.info import StoreSample, sample
from ratelimitd.store.scripts import Scripts, load_subject_scripts
from ratelimitd.store.single import SingleStore
from ratelimitd.store.subjects import SubjectStore, Write
from ratelimitd.store.subscription import Subscription
from ratelimitd.store.topology import ClusterClient
from tests.store.conftest import MakeClient
from tests.store.plans import keys_of_all_partitions, make_key, make_limit, make_plan, one
from tests.support.registry import name_of
from tests.support.servers import Cluster, Server
from tests.support.stores import check

DOCUMENT = Path(__file__).parents[2] / "docs" / "store-permissions.md"
SINGLE, CLUSTER = re.findall(r"^ACL SETUSER .*$", DOCUMENT.read_text(), re.MULTILINE)


def _set_user(server: Server, line: str, *, more: str = "") -> None:
    words = line.replace("PASSWORD", "pw").split() + more.split()
    server.execute(*words)


def _url(server: Server) -> str:
    return f"unix://ratelimitd:pw@{server.unix_path}"


async def test_documented_user_may_do_all_that_is_needed(
    store_server: Server, make_client: MakeClient, scripts: Scripts
) -> None:
    # given
    _set_user(store_server, SINGLE)
    store_server.execute("SCRIPT", "FLUSH")
    client = make_client(_url(store_server))
    store = SingleStore(client, scripts)
    secret = HashSecret()
    # when
    (first,) = await check(store, [one("a", limit=1)], timeout_s=5)
    (second,) = await store.peek([one("a", limit=1)], timeout_s=5)
    is_known = await secret.refresh(client, timeout_s=5)
    answer = await client.run("PING", timeout_s=5)
    # then
    assert (first.is_refused, second.is_refused) == (False, True)
    assert is_known
    assert answer == b"PONG"


async def test_documented_user_may_keep_and_follow_the_registry(
    store_server: Server, make_client: MakeClient
) -> None:
    # given
    _set_user(store_server, SINGLE)
    store_server.execute("SCRIPT", "FLUSH")
    registry = SubjectStore(make_client(_url(store_server)), load_subject_scripts())
    name = name_of("a")
    heard = asyncio.Event()
    subscribed = asyncio.Event()
    subscription = Subscription(
        parse_address(_url(store_server)),
        registry.keys.channel,
        locate=lambda: registry.home(timeout_s=5),
        on_message=heard.set,
        on_connected=subscribed.set,
    )
    following = asyncio.create_task(subscription.run())
    # when
    async with asyncio.timeout(5):
        await subscribed.wait()
        await registry.write([Write(name, Subject("pro"))], timeout_s=5)
        await heard.wait()
    following.cancel()
    await asyncio.wait({following})
    await registry.block([Block("api", name, 2**52), Block("api", "api|a=b", 1)], timeout_s=5)
    await registry.unblock([name], timeout_s=5)
    page = await registry.page("api", "", 10, timeout_s=5)
    changes = await registry.changes(timeout_s=5)
    await registry.write([Write(name, None)], timeout_s=5)
    # then
    assert [one for one, _ in page.records] == [name]
    assert changes.known == (await registry.known(timeout_s=5))._replace(version=3)
    assert [one.entry for one in await registry.blocks(timeout_s=5)] == []


async def test_user_without_the_registry_is_told_where_to_look(
    store_server: Server, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    # given what was documented before there were subjects
    before = SINGLE.partition(" +hmget")[0].replace("resetchannels &rl:1:* ", "")
    _set_user(store_server, before)
    registry = SubjectStore(make_client(_url(store_server)), load_subject_scripts())
    directory = SubjectDirectory(registry, now_us=lambda: 0)
    # when
    for _ in range(2):
        await directory.look()
    # then
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "our user may not do this; docs/store-permissions.md" in record.getMessage()


async def test_documented_user_may_do_nothing_else(
    store_server: Server, make_client: MakeClient
) -> None:
    # given
    _set_user(store_server, SINGLE)
    client = make_client(_url(store_server))
    # when / then
    for command in (("GET", "other"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*")):
        with pytest.raises(StoreUnavailable, match=r"may not do this; docs/store-permissions"):
            await client.run(*command, timeout_s=5)


async def test_metrics_of_a_user_without_permission_are_absent(
    store_server: Server, make_client: MakeClient
) -> None:
    # given
    _set_user(store_server, SINGLE)
    client = make_client(_url(store_server))
    # when
    without = await sample(client, timeout_s=5)
    _set_user(store_server, SINGLE, more="+info +dbsize")
    allowed = await sample(client, timeout_s=5)
    # then
    assert without == StoreSample()
    assert allowed.keys == 0
    assert allowed.evicted_keys == 0
    assert allowed.used_memory_bytes is not None


async def test_documented_user_may_select_a_database_if_given(
    store_server: Server, make_client: MakeClient
) -> None:
    # given
    _set_user(store_server, SINGLE)
    refused = make_client(f"{_url(store_server)}?db=1")
    with pytest.raises(StoreUnavailable, match="may not do this"):
        await refused.run("PING", timeout_s=5)
    # when
    _set_user(store_server, SINGLE, more="+select")
    answer = await make_client(f"{_url(store_server)}?db=1").run("PING", timeout_s=5)
    # then
    assert answer == b"PONG"


async def test_missing_script_permission_is_said(
    store_server: Server, make_client: MakeClient, scripts: Scripts
) -> None:
    # given
    _set_user(store_server, SINGLE, more="-script")
    store_server.execute("SCRIPT", "FLUSH")
    store = SingleStore(make_client(_url(store_server)), scripts)
    # when / then
    with pytest.raises(StoreUnavailable, match="may not do this"):
        await check(store, [one("a")], timeout_s=5)


async def test_key_outside_the_permission_spends_nothing(
    store_server: Server, make_client: MakeClient, scripts: Scripts
) -> None:
    # given
    _set_user(store_server, SINGLE.replace("~rl:1:*", "~other:*"))
    store = SingleStore(make_client(_url(store_server)), scripts)
    # when / then
    with pytest.raises((StoreUnavailable, StoreReplyLost), match="may not do this"):
        await check(store, [one("a")], timeout_s=5)
    assert store_server.execute("EXISTS", make_key("a")) == 0


async def test_documented_cluster_user_may_do_all_that_is_needed(
    cluster: Cluster, scripts: Scripts
) -> None:
    # given
    for node in cluster.nodes:
        node.execute("FLUSHALL")
        _set_user(node, CLUSTER)
    url = cluster.url.replace("://", "://ratelimitd:pw@")
    client = ClusterClient(
        parse_address(url), store_timeout_s=5, now=asyncio.get_running_loop().time
    )
    store = ClusterStore(client, scripts)
    limit = make_limit(1, counts_denied=False)
    checks = [type(one("a").checks[0])(k, limit, 1) for k in keys_of_all_partitions().values()]
    # when: the second request is refused by one partition and given back by the others
    (first,) = await check(store, [make_plan(*checks[:1])], timeout_s=5)
    (second,) = await check(store, [make_plan(*checks)], timeout_s=5)
    is_known = await HashSecret().refresh(client, timeout_s=5)
    await store.close()
    await client.close()
    # then
    assert (first.is_refused, second.is_refused) == (False, True)
    assert is_known
