"""The scripts as programs: includes, malformed arguments, keys written, bytes per key."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import redis

from ratelimitd.decisions.refusal import Ruling, is_refused
from ratelimitd.errors import ConfigError
from ratelimitd.policy.model import Limit, Unit
from ratelimitd.store.scripts import load_script, load_scripts, lua_directory
from ratelimitd.store.wire import pack_plan, to_arguments
from tests.model.limits import ModelStore
from tests.support.plans import check_of, gcra_of, limit_of, plan_of
from tests.support.scripted import ScriptedStore
from tests.support.servers import Server

NOW_US = 1_790_000_000_000_000
SCRIPTS = load_scripts()
SHAPE = pack_plan(plan_of(check_of(limit_of(5)))).shape


@pytest.fixture
def client(store_server: Server) -> Iterator[redis.Redis]:
    connected = store_server.client()
    yield connected
    connected.flushall()


@pytest.fixture
def store(client: redis.Redis) -> ScriptedStore:
    return ScriptedStore(client)


def test_include_is_expanded_once_before_the_script() -> None:
    # when
    text = load_script(lua_directory(), "give_back").text.decode()
    # then
    assert text.count("local clock = {}") == text.count("local fixed_window = {}") == 1
    assert text.count("local MAX_INTEGER") == 1
    assert text.index("local fixed_window = {}") < text.index("local given_back = 0")


def test_include_that_is_missing_names_the_chain(tmp_path: Path) -> None:
    # given
    (tmp_path / "a.lua").write_text('--- @include "lib/b"\n')
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "b.lua").write_text('--- @include "lib/c"\n')
    # then
    with pytest.raises(ConfigError, match=r"a -> lib/b -> lib/c.*No such file"):
        load_script(tmp_path, "a")


def test_include_cycle_names_the_chain(tmp_path: Path) -> None:
    # given
    (tmp_path / "a.lua").write_text('--- @include "b"\n')
    (tmp_path / "b.lua").write_text('--- @include "a"\n')
    # then
    with pytest.raises(ConfigError, match="cycle: a -> b -> a"):
        load_script(tmp_path, "a")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        [NOW_US],
        [NOW_US, b"\0"],
        [NOW_US, b"\0\0"],
        [NOW_US, b"\0\0", b""],
        [NOW_US, b"", b"", SHAPE],
        [NOW_US, b"\0\1", b"", SHAPE],
        [NOW_US, b"\0\0\0", b"", SHAPE],
        [NOW_US, b"\0\0\0\0", b"", SHAPE],
        [NOW_US, b"\0\0", b"", SHAPE[:-1]],
        [NOW_US, b"\0\0", b"", SHAPE + SHAPE[5:]],
        [NOW_US, b"\0\0", b"", b"\0\2" + SHAPE[2:]],
        [NOW_US, b"\0\0", b"", SHAPE[:5] + b"\5" + SHAPE[6:]],
        [NOW_US, b"\0\0", b"\0" * 16, SHAPE],
        [NOW_US, b"\0\0", b"", SHAPE[:6] + b"\x10" + SHAPE[7:]],
        [NOW_US, b"\0\0", b"", SHAPE[:6] + b"\x20" + SHAPE[7:]],
    ],
)
def test_malformed_arguments_fail_and_write_nothing(
    client: redis.Redis, store: ScriptedStore, arguments: list[object]
) -> None:
    with pytest.raises(redis.ResponseError):
        client.evalsha(SCRIPTS.check.sha, 1, "rl:1:{00}k", *arguments)  # type: ignore[arg-type]
    assert client.dbsize() == 0


def test_batch_of_the_largest_size_is_decided(client: redis.Redis, store: ScriptedStore) -> None:
    # given 512 requests of two checks: as many keys as a batch may have
    limit = limit_of(1)
    batch = [
        plan_of(check_of(limit, f"{index}a"), check_of(limit, f"{index}b")) for index in range(512)
    ]
    # when
    replies = store.check(batch, NOW_US)
    # then
    assert replies == ModelStore().check(batch, NOW_US)
    assert client.dbsize() == 1024


def test_every_key_lives_no_longer_than_its_window(client: redis.Redis) -> None:
    # given the store's own clock, as in production
    batch = [plan_of(check_of(limit_of(5, unit))) for unit in Unit if unit is not Unit.UNKNOWN]
    keys, arguments = to_arguments([pack_plan(plan) for plan in batch])
    # when
    client.script_load(SCRIPTS.check.text)
    client.evalsha(SCRIPTS.check.sha, len(keys), *keys, *arguments)
    # then
    for plan in batch:
        ttl_ms = client.pttl(plan.checks[0].key)
        assert ttl_ms == -2 or 0 <= ttl_ms <= plan.checks[0].limit.window_us // 1000


@pytest.mark.parametrize("limit", [limit_of(100, Unit.HOUR), gcra_of(7, 60_000_000)])
def test_a_key_with_short_values_takes_at_most_120_bytes(
    client: redis.Redis, store: ScriptedStore, limit: Limit
) -> None:
    # given a few keys of the usual kind
    batch = [plan_of(check_of(limit, f"user-{number}")) for number in range(50)]
    # when
    store.check(batch, NOW_US)
    # then
    sizes = [client.memory_usage(plan.checks[0].key) for plan in batch]
    assert max(sizes) <= 120  # type: ignore[type-var,operator]


def test_peek_writes_nothing_and_spends_nothing(client: redis.Redis, store: ScriptedStore) -> None:
    # given
    plan = plan_of(check_of(limit_of(1)))
    # when
    first, second = store.peek([plan, plan], NOW_US)
    # then each is told as if it came alone
    assert first == second
    assert not first.is_refused
    assert client.dbsize() == 0


def test_refusal_is_one_rule_in_lua_and_python(client: redis.Redis) -> None:
    # given every request of up to three checks
    store = ScriptedStore(client)
    kinds = list(product((False, True), repeat=4))
    plans, expected = [], []
    for size in range(1, 4):
        for checks in product(kinds, repeat=size):
            for passing_quota in (0, 1):
                plan = plan_of(
                    *(
                        check_of(
                            limit_of(0 if over else 5, is_shadow=shadow, is_quota=quota), str(index)
                        )._replace(is_joined=joined and index > 0)
                        for index, (over, shadow, quota, joined) in enumerate(checks)
                    ),
                    passing_quota=passing_quota,
                )
                plans.append(plan)
                rulings = [
                    Ruling(check.limit, check.limit.requests_per_unit == 0, check.is_joined)
                    for check in plan.checks
                ]
                expected.append(is_refused(rulings, passing_quota))
    # when
    replies = [
        reply
        for first in range(0, len(plans), 300)
        for reply in store.peek(plans[first : first + 300], NOW_US)
    ]
    # then script, Python and model say the same
    assert [reply.is_refused for reply in replies] == expected
    assert [reply.is_refused for reply in ModelStore().peek(plans, NOW_US)] == expected
