import asyncio
from pathlib import Path

import pytest

from ratelimitd.errors import ConfigError
from ratelimitd.store.address import parse_address
from ratelimitd.store.hash_secret import (
    HASH_SECRET_KEY,
    SECRET_BYTES,
    SECRET_TTL_S,
    HashSecret,
    read_hash_secret_file,
)
from ratelimitd.store.topology import ClusterClient
from tests.store.conftest import MakeClient
from tests.support.servers import Cluster, Server, free_port


async def test_daemons_of_a_store_share_the_secret_of_the_first(
    store_server: Server, make_client: MakeClient
) -> None:
    # given
    first, second = HashSecret(), HashSecret()
    before = first.value
    client = make_client(store_server.url)
    # when
    await first.refresh(client, timeout_s=5)
    await second.refresh(client, timeout_s=5)
    # then
    assert first.value == second.value == before
    assert len(before) == SECRET_BYTES
    assert client is not None


async def test_secret_of_the_store_outlives_a_refresh(
    store_server: Server, make_client: MakeClient
) -> None:
    # given
    secret = HashSecret()
    client = make_client(store_server.url)
    await secret.refresh(client, timeout_s=5)
    store_server.execute("EXPIRE", HASH_SECRET_KEY, 60)
    # when
    await secret.refresh(client, timeout_s=5)
    # then
    left_s = store_server.execute("TTL", HASH_SECRET_KEY)
    assert isinstance(left_s, int)
    assert SECRET_TTL_S - 60 < left_s <= SECRET_TTL_S


async def test_refresh_that_finds_the_same_secret_keeps_the_very_object(
    store_server: Server, make_client: MakeClient
) -> None:
    # given, as plans are those of one secret by its identity
    secret = HashSecret()
    client = make_client(store_server.url)
    await secret.refresh(client, timeout_s=5)
    before = secret.value
    # when
    await secret.refresh(client, timeout_s=5)
    # then
    assert secret.value is before


async def test_store_that_lost_its_secret_gets_ours_again(
    store_server: Server, make_client: MakeClient
) -> None:
    # given
    secret = HashSecret()
    client = make_client(store_server.url)
    await secret.refresh(client, timeout_s=5)
    store_server.execute("FLUSHALL")
    # when
    await secret.refresh(client, timeout_s=5)
    # then
    assert store_server.execute("GET", HASH_SECRET_KEY) == secret.value


async def test_secret_that_somebody_broke_is_not_adopted(
    store_server: Server, make_client: MakeClient
) -> None:
    # given
    secret = HashSecret()
    before = secret.value
    store_server.execute("SET", HASH_SECRET_KEY, "short")
    # when
    await secret.refresh(make_client(store_server.url), timeout_s=5)
    # then
    assert secret.value == before


async def test_secret_given_by_the_operator_needs_no_store(make_client: MakeClient) -> None:
    # given
    secret = HashSecret(b"given-by-the-operator")
    client = make_client(f"redis://127.0.0.1:{free_port()}")
    # when
    is_known = await secret.refresh(client, timeout_s=5)
    # then
    assert is_known
    assert secret.value == b"given-by-the-operator"


async def test_secret_waits_for_a_store_that_is_away(make_client: MakeClient) -> None:
    # given
    secret = HashSecret()
    before = secret.value
    # when
    is_known = await secret.refresh(make_client(f"redis://127.0.0.1:{free_port()}"), timeout_s=5)
    # then
    assert not is_known
    assert secret.value == before


async def test_secret_is_shared_in_a_cluster(cluster: Cluster) -> None:
    # given
    client = ClusterClient(
        parse_address(cluster.url), store_timeout_s=5, now=asyncio.get_running_loop().time
    )
    first, second = HashSecret(), HashSecret()
    # when
    await first.refresh(client, timeout_s=5)
    await second.refresh(client, timeout_s=5)
    await client.close()
    # then
    assert first.value == second.value


def test_secret_file_is_read_without_its_line_end(tmp_path: Path) -> None:
    # given
    file = tmp_path / "secret"
    file.write_bytes(b"0123456789abcdef\n")
    # when / then
    assert read_hash_secret_file(file) == b"0123456789abcdef"


@pytest.mark.parametrize(
    ("content", "text"), [(None, "No such file"), (b"short", "5 bytes"), (b"x" * 5000, "4097")]
)
def test_unusable_secret_file_says_why(tmp_path: Path, content: bytes | None, text: str) -> None:
    # given
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    # when / then
    with pytest.raises(ConfigError, match=text):
        read_hash_secret_file(file)
