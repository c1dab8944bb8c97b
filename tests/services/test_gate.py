import logging

import pytest

from ratelimitd.app.h2_port import HEALTH_CHECK, SHOULD_RATE_LIMIT
from ratelimitd.defects import LINES_PER_SECOND
from ratelimitd.errors import NotPermitted
from ratelimitd.policy.callers import Callers
from ratelimitd.policy.callers_file import METHODS
from ratelimitd.policy.compile import compile_policy
from ratelimitd.services.context import CallContext
from ratelimitd.services.gate import Gate
from ratelimitd.services.hot_path import HotPath
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.services.ratelimit import METHOD
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.refused_callers import (
    MAX_CALLERS,
    QUIET_S,
    RefusedCaller,
    RefusedCallers,
)
from tests.services.conftest import DEFAULT_DEADLINE_S, Start, message_of
from tests.services.conftest import ask_hot_path as ask

CHECK = "grpc.health.v1.Health/Check"
POLICY = "domain: api\ndescriptors: [{key: a, rate_limit: {unit: year, requests_per_unit: 9}}]"
EDGE = ("DNS", "edge.internal")


def callers_of(domains: str) -> Callers | None:
    entry = f"{{san: {EDGE[1]}, domains: {domains}, methods: [{METHOD}]}}"
    return compile_policy({"callers.yaml": f"callers: [{entry}]"}).callers


def test_methods_that_the_file_may_name_are_those_of_the_port() -> None:
    assert {METHOD, CHECK} == {SHOULD_RATE_LIMIT[1:].decode(), HEALTH_CHECK[1:].decode()}
    assert set(METHODS) == {METHOD, CHECK, "grpc.health.v1.Health/Watch"}


def test_gate_is_open_without_a_file_and_without_names() -> None:
    holder = PolicyHolder()

    assert Gate(holder, Telemetry()).is_open
    assert not Gate(holder, Telemetry(), ["edge.internal"]).is_open
    holder.callers = callers_of("all")
    assert not Gate(holder, Telemetry()).is_open


def test_peer_is_looked_up_once_for_a_file() -> None:
    holder = PolicyHolder(callers=callers_of("[shop]"))
    peer = Gate(holder, Telemetry()).meet([EDGE])

    peer.check_method(METHOD)
    caller = peer._caller  # noqa: SLF001 - what a second look-up would replace
    for _ in range(3):
        peer.check_method(METHOD)
        peer.check_domain(METHOD, "shop")

    assert peer._caller is caller  # noqa: SLF001 - as above
    holder.callers = callers_of("[login]")
    with pytest.raises(NotPermitted, match="the domain `shop`"):
        peer.check_domain(METHOD, "shop")


def test_every_reason_is_shown_from_the_start() -> None:
    telemetry = Telemetry()

    Gate(PolicyHolder(), telemetry)

    assert telemetry.refused_callers == {"name": 0, "unknown": 0, "method": 0, "domain": 0}


def test_refused_caller_is_logged_once_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock, telemetry = [100.0], Telemetry()
    refused = RefusedCallers(telemetry, lambda: clock[0])

    for _ in range(9):
        refused.refuse(RefusedCaller.DOMAIN, "a", "a may not")
    refused.refuse(RefusedCaller.DOMAIN, "b", "b may not")
    refused.refuse(RefusedCaller.METHOD, "b", "b may not call")
    clock[0] += QUIET_S
    refused.refuse(RefusedCaller.DOMAIN, "a", "a may not")

    assert [record.getMessage() for record in caplog.records] == [
        "refused: a may not",
        "refused: b may not (8 more before were not logged)",
        "refused: b may not call",
        "refused: a may not",
    ]
    assert telemetry.refused_callers == {"name": 0, "unknown": 0, "method": 1, "domain": 11}


def test_many_refused_callers_are_logged_within_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    telemetry = Telemetry()
    gate = Gate(PolicyHolder(callers=callers_of("[shop]")), telemetry)
    gate.refused = RefusedCallers(telemetry, lambda: 100.0)

    for number in range(2 * MAX_CALLERS):
        with pytest.raises(NotPermitted):
            gate.meet([("DNS", f"host{number}\n")]).check_method(METHOD)

    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == r"refused: callers.yaml has no entry for `host0\n`"
    assert len(lines) == LINES_PER_SECOND
    assert len(gate.refused._told_s) <= MAX_CALLERS  # noqa: SLF001 - what must stay bounded
    assert telemetry.refused_callers["unknown"] == 2 * MAX_CALLERS


async def test_domain_is_refused_before_anything_is_spent_or_remembered(start: Start) -> None:
    # given callers that may not use the domain, and may
    running = await start(POLICY)
    holder = PolicyHolder(callers=callers_of("[other]"))
    gate = Gate(holder, running.service.telemetry)
    context = CallContext(timeout_s=10.0, caller=gate.meet([EDGE]))
    hot, message = HotPath(running.service, DEFAULT_DEADLINE_S), message_of("a=1")
    told = r"`edge\.internal` may not use the domain `api` \(callers\.yaml\)"

    # when each way is asked, a known plan too
    for _ in range(3):
        with pytest.raises(NotPermitted, match=told):
            await ask(hot, message, context)
        with pytest.raises(NotPermitted, match=told):
            await running.service.should_rate_limit(message, context)
    spent, remembered = running.script_calls(), (len(hot.plans), hot.plans.misses)
    holder.callers = callers_of("[api]")
    await ask(hot, message, context)
    await running.service.should_rate_limit(message, context)

    # then
    assert (spent, remembered) == (0, (0, 0))
    assert running.script_calls() > 0
    assert running.service.telemetry.refused_callers["domain"] == 6
