"""A Cluster decides what one server decides: random requests, one after the other, on both."""

import asyncio

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ratelimitd.decisions.keys import partition_of
from ratelimitd.decisions.plan import Check, CheckResult, Plan, Reply
from ratelimitd.errors import StoreReplyLost, StoreUnavailable
from ratelimitd.store.address import parse_address
from ratelimitd.store.cluster import ClusterStore
from ratelimitd.store.connection import NodeClient
from ratelimitd.store.partitions import merge, split
from ratelimitd.store.scripts import Scripts
from ratelimitd.store.single import SingleStore
from ratelimitd.store.topology import ClusterClient
from ratelimitd.store.wire import pack_plan
from tests.store.plans import make_key, make_limit, make_plan
from tests.support.servers import Cluster, Server
from tests.support.stores import check

T = 5.0
KEYS = [make_key(f"n{number}") for number in range(5)]

# A limit belongs to its counter: the same key has the same limit in every request of an example.
limits = st.builds(
    make_limit,
    st.integers(0, 4),
    is_shadow=st.booleans(),
    is_quota=st.booleans(),
    counts_denied=st.booleans(),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Plan]:
    by_key = {key: draw(limits) for key in KEYS}
    check = st.builds(
        lambda key, cost: Check(key, by_key[key], cost), st.sampled_from(KEYS), st.integers(-3, 3)
    )
    plan = st.builds(
        lambda checks, passing, denied: make_plan(*checks, passing_quota=passing, is_denied=denied),
        st.lists(check, min_size=1, max_size=4),
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
    # when
    parts = split([pack_plan(plan) for plan in plans])
    # then
    for part in parts:
        keys = [key for piece in part.plans for key in piece.keys]
        expected = [
            check.key
            for plan in plans
            for check in plan.checks
            if partition_of(check.key) == part.tag
        ]
        assert keys == expected
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
