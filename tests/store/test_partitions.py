"""A Cluster decides what one server decides: random requests, one after the other, on both."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ratelimitd.decisions.keys import partition_of
from ratelimitd.decisions.plan import Births, Check, CheckResult, Plan, Reply
from ratelimitd.errors import StoreReplyLost, StoreUnavailable
from ratelimitd.policy.model import Algorithm, Limit
from ratelimitd.store.address import parse_address
from ratelimitd.store.cluster import ClusterStore
from ratelimitd.store.connection import NodeClient
from ratelimitd.store.partitions import merge, split
from ratelimitd.store.scripts import Scripts
from ratelimitd.store.single import SingleStore
from ratelimitd.store.topology import ClusterClient
from ratelimitd.store.wire import flags_of_shape, pack_plan
from tests.store.plans import make_key, make_limit, make_plan
from tests.support.servers import Cluster, Server
from tests.support.stores import check

T = 5.0
NOW_US = 1_790_000_000_000_000
KEYS = [make_key(f"n{number}") for number in range(5)]

# All on windows so long that the servers' own clocks change nothing.
ALGORITHMS: tuple[dict[str, Any], ...] = (
    {},
    {"algorithm": Algorithm.SLIDING_WINDOW},
    {"algorithm": Algorithm.GCRA},
    {"algorithm": Algorithm.GCRA, "max_debt": 0},
    {"algorithm": Algorithm.CONCURRENCY, "window_us": 0, "slot_ttl_us": 3_600_000_000},
)


# A limit belongs to its counter: the same key has the same limit in every request of an example.
@st.composite
def limits(draw: st.DrawFn) -> Limit:
    made = make_limit(
        draw(st.integers(0, 4)),
        is_shadow=draw(st.booleans()),
        is_quota=draw(st.booleans()),
        counts_denied=draw(st.booleans()),
    )
    return replace(made, **draw(st.sampled_from(ALGORITHMS)))


@st.composite
def checks(draw: st.DrawFn, by_key: Mapping[bytes, Limit]) -> Check:
    key = draw(st.sampled_from(KEYS))
    made = Check(key, by_key[key], draw(st.integers(-3, 3)), is_joined=draw(st.booleans()))
    if made.limit.algorithm is not Algorithm.CONCURRENCY:
        return made
    # A place that was left stays free, also where another partition refuses.
    return made._replace(cost=abs(made.cost), slot=draw(st.sampled_from([b"", b"A" * 16])))


@st.composite
def histories(draw: st.DrawFn) -> list[Plan]:
    by_key = {key: draw(limits()) for key in KEYS}
    plan = st.builds(
        lambda checks, passing, denied: make_plan(*checks, passing_quota=passing, is_denied=denied),
        st.lists(checks(by_key), min_size=1, max_size=4),
        st.integers(0, 1),
        st.booleans(),
    )
    return draw(st.lists(plan, min_size=1, max_size=6))


FREE = make_limit(5, counts_denied=False)
USED_UP = make_limit(0, counts_denied=False)


@settings(max_examples=40)
@given(plans=histories())
@example(  # a refund that the floor cut, in a request that another partition refuses
    plans=[
        make_plan(Check(KEYS[0], FREE, -3), Check(KEYS[1], USED_UP, 1)),
        make_plan(Check(KEYS[0], FREE, 0)),
    ]
)
@example(  # the same after a charge of the same counter
    plans=[
        make_plan(Check(KEYS[0], FREE, 2), Check(KEYS[0], FREE, -3), Check(KEYS[1], USED_UP, 1)),
        make_plan(Check(KEYS[0], FREE, 0)),
    ]
)
def test_cluster_decides_as_one_server_does(
    plans: list[Plan], redis7: Server, cluster: Cluster, scripts: Scripts
) -> None:
    # given
    for server in (redis7, *cluster.nodes):
        server.execute("FLUSHALL")
    # when
    alone, spread = asyncio.run(_decide(plans, redis7, cluster, scripts))
    # then
    assert [_facts(reply) for reply in spread] == [_facts(reply) for reply in alone]


@given(plans=histories())
def test_split_keeps_every_check_once_and_in_order(plans: list[Plan]) -> None:
    # given a bound on births for every second check
    plans = [
        plan._replace(
            checks=tuple(
                check._replace(births=Births(check.key + b"b", check.key + b"o", 1))
                if number % 2
                else check
                for number, check in enumerate(plan.checks)
            )
        )
        for plan in plans
    ]
    # when
    parts = split([pack_plan(plan) for plan in plans])
    # then
    for part in parts:
        expected = [
            pack_plan(make_plan(check))
            for plan in plans
            for check in plan.checks
            if partition_of(check.key) == part.tag
        ]
        assert [key for piece in part.plans for key in piece.keys] == [
            key for one in expected for key in one.keys
        ]
        assert b"".join(piece.slots for piece in part.plans) == b"".join(
            one.slots for one in expected
        )
        assert sum(piece.check_count for piece in part.plans) == len(expected)
        for piece in part.plans:
            flags = flags_of_shape(piece.shape)
            assert len(flags) == piece.check_count
            assert len(piece.slots) == 16 * sum(bool(flag & 16) for flag in flags)
            assert len(piece.keys) == sum(3 if flag & 32 else 1 for flag in flags)
    assert len({part.tag for part in parts}) == len(parts)


def test_request_with_a_silent_part_is_perhaps_spent_and_nothing_is_given_back() -> None:
    # given
    keys = {partition_of(key): key for key in KEYS}
    first, second = list(keys.values())[:2]
    limit = make_limit(0, counts_denied=False)
    plan = pack_plan(make_plan(Check(first, limit, 1), Check(second, limit, 1)))
    parts = split([plan])
    # when
    (lost,), nothing = merge([plan], parts, [StoreReplyLost("a"), StoreUnavailable("b")])
    (unsent,), _ = merge([plan], parts, [StoreUnavailable("a"), StoreUnavailable("b")])
    # then
    assert isinstance(lost, StoreReplyLost)
    assert isinstance(unsent, StoreUnavailable)
    assert nothing == {}


class Unmade:
    """A plan that is packed, and that nobody must ask for itself."""

    def __init__(self, plan: Plan) -> None:
        packed = pack_plan(plan)
        self.shape, self.keys = packed.shape, packed.keys
        self.slots, self.check_count = packed.slots, packed.check_count

    @property
    def plan(self) -> Plan:
        raise AssertionError("an admitted request needs no plan")


def test_admitted_request_over_several_partitions_needs_no_plan() -> None:
    # given
    plan = Unmade(make_plan(*[Check(key, make_limit(5), 1) for key in KEYS]))
    parts = split([plan])
    assert len(parts) > 1
    result = CheckResult(False, 0, 1, 1, 1_000, 0)
    answers = [
        [Reply(number, False, (result,) * len(piece.keys)) for piece in part.plans]
        for number, part in enumerate(parts)
    ]
    # when
    (reply,), give_back = merge([plan], parts, answers)
    # then
    assert reply == Reply(len(parts) - 1, False, (result,) * len(KEYS))
    assert give_back == {}


def test_request_with_a_stale_part_is_stale_and_all_of_it_is_given_back() -> None:
    # given parts that admitted, refused and did not decide; each key lies in another
    first, second, third = list({partition_of(key): key for key in KEYS}.values())[:3]
    free = make_limit(5, counts_denied=False)
    place = replace(free, algorithm=Algorithm.CONCURRENCY, window_us=0, slot_ttl_us=1_000)
    plan = pack_plan(
        make_plan(
            Check(first, free, 2),
            Check(first, free, 1),
            Check(first + b"p", place, 1, slot=b"A" * 16),
            Check(second, make_limit(0), 4),
            Check(third, free, 1),
        )
    )
    parts = split([plan])
    nothing = CheckResult(False, 0, 0, 0, 0, 0)
    answers = [
        [
            Reply(
                NOW_US,
                False,
                (
                    CheckResult(False, 1, 3, 4, 9, 0),
                    CheckResult(False, 3, 4, 4, 9, 0),
                    CheckResult(False, 0, 1, 1, 9, 0),
                ),
            )
        ],
        [Reply(NOW_US + 1, True, (CheckResult(True, 7, 11, 11, 9, -1),))],
        [Reply(NOW_US + 2, True, (nothing,), is_stale=True)],
    ]
    # when
    (reply,), give_back = merge([plan], parts, answers)
    # then
    assert reply == Reply(NOW_US + 2, True, (nothing,) * 5, is_stale=True)
    given = {
        (charge.key, charge.amount, charge.charged_at_us)
        for charges in give_back.values()
        for charge in charges
    }
    assert given == {
        (first, 3, NOW_US),
        (first + b"p", 1, NOW_US),
        (second, 4, NOW_US + 1),
    }


def test_charge_of_an_overflow_counter_is_given_back_there() -> None:
    # given a new counter beyond its bound, beside a limit that refuses elsewhere
    first, second = list({partition_of(key): key for key in KEYS}.values())[:2]
    births = Births(first + b"b", first + b"o", 1)
    plan = pack_plan(
        make_plan(
            Check(first, make_limit(5, counts_denied=False), 2, births=births),
            Check(second, make_limit(0), 1),
        )
    )
    answers = [
        [Reply(NOW_US, False, (CheckResult(False, 1, 3, 3, 9, 0, is_overflowed=True),))],
        [Reply(NOW_US, True, (CheckResult(True, 0, 1, 1, 9, -1),))],
    ]
    # when
    (reply,), give_back = merge([plan], split([plan]), answers)
    # then
    assert isinstance(reply, Reply)
    (charge,) = give_back[partition_of(first)]
    assert (charge.key, charge.amount) == (births.overflow_key, 2)
    assert [result.used_final for result in reply.results] == [1, 1]


async def _decide(
    plans: list[Plan], server: Server, cluster: Cluster, scripts: Scripts
) -> tuple[list[Reply], list[Reply]]:
    now = asyncio.get_running_loop().time
    address = parse_address(server.url)
    node = NodeClient(address, address.endpoints[0], store_timeout_s=T)
    nodes = ClusterClient(parse_address(cluster.url), store_timeout_s=T, now=now)
    single, spread = SingleStore(node, scripts), ClusterStore(nodes, scripts)
    alone_replies, spread_replies = [], []
    for plan in plans:
        alone_replies += await check(single, [plan], timeout_s=T)
        spread_replies += await check(spread, [plan], timeout_s=T)
    await spread.close()
    await nodes.close()
    await node.close()
    return alone_replies, spread_replies


def _facts(reply: Reply) -> object:
    return reply.is_refused, [
        (result.is_over, result.used_before, result.used_after, result.used_final)
        for result in reply.results
    ]
