"""Who may call what, on both servers of the gRPC port: refused, told, counted, reloaded."""

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.policy.callers import Callers
from ratelimitd.policy.compile import compile_policy
from ratelimitd.services.context import CallContext
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.services.ratelimit import METHOD
from ratelimitd.transport.grpc import GrpcPort
from tests.support.certificates import Authority, KeyPair, make_authority
from tests.transport.secured import TIMEOUT_S, channel_to, port
from tests.transport.support import EchoService, Serve, Served, raw_call, status_of

OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
EDGE = "spiffe://prod.example/ns/edge/sa/envoy"
FILE = f"""
callers:
  - {{san: {EDGE}, domains: [shop], methods: [{METHOD}]}}
  - {{san: [Batch.internal, ops@Mail.example], domains: all, methods: all}}
  - {{san: health.internal, domains: all, methods: [grpc.health.v1.Health/Check]}}
"""


class DomainService(EchoService):
    """Asks about the domain, as the real service does once it has read the request."""

    async def should_rate_limit(
        self, message: rls_pb2.RateLimitRequest, context: CallContext
    ) -> rls_pb2.RateLimitResponse:
        if context.caller is not None:
            context.caller.check_domain(METHOD, message.domain)
        return await super().should_rate_limit(message, context)


class World:
    """A port, its holder, and certificates of the one authority."""

    def __init__(self, directory: Path) -> None:
        self.authority = make_authority(directory / "ca")
        self.server_pair = self.authority.issue("localhost")
        self.holder = PolicyHolder(callers=callers_of(FILE))
        self.service = DomainService()

    def port(self, *names: str) -> GrpcPort:
        return port(self.server_pair, self.authority.certificate, names, self.holder)

    def certificate(self, *sans: str) -> KeyPair:
        return self.authority.issue("client", sans)


def callers_of(text: str) -> Callers | None:
    return compile_policy({"callers.yaml": text}).callers


def body(domain: str) -> bytes:
    return rls_pb2.RateLimitRequest(domain=domain).SerializeToString()


def refusals(served_port: GrpcPort) -> dict[str, int]:
    assert served_port.gate is not None
    counts = served_port.gate.telemetry.refused_callers
    return {reason: count for reason, count in counts.items() if count}


async def ask(
    server: Served, authority: Authority, client: KeyPair, domain: str = "shop"
) -> tuple[grpc.StatusCode, str]:
    async with channel_to(server.address, authority, client) as channel:
        return await status_of(raw_call(channel)(body(domain), timeout=TIMEOUT_S))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize(
    ("sans", "domain", "told", "reason"),
    [
        ((EDGE,), "shop", "", ""),
        (
            (EDGE,),
            "login",
            f"`{EDGE}` may not use the domain `login` (callers.yaml)",
            "domain",
        ),
        (("batch.INTERNAL",), "any", "", ""),
        (("ops@mail.example",), "any", "", ""),
        (("stranger", "batch.internal"), "any", "", ""),
        ((EDGE, "batch.internal"), "any", "", ""),
        (
            ("health.internal",),
            "shop",
            f"`health.internal` may not call {METHOD} (callers.yaml)",
            "method",
        ),
        (("stranger",), "shop", "callers.yaml has no entry for `stranger`", "unknown"),
        ((f"{EDGE}/x",), "shop", f"callers.yaml has no entry for `{EDGE}/x`", "unknown"),
        (
            ("10.0.0.1",),
            "shop",
            "the certificate has no name of a kind that callers.yaml lists",
            "unknown",
        ),
    ],
)
async def test_caller_is_admitted_or_told_why_not(
    world: World, serve: Serve, *, sans: tuple[str, ...], domain: str, told: str, reason: str
) -> None:
    served = world.port()
    async with serve(world.service, served) as server:
        found = await ask(server, world.authority, world.certificate(*sans), domain)

    assert found == ((DENIED, told) if told else (OK, ""))
    assert refusals(served) == ({reason: 1} if reason else {})
    assert world.service.calls == [("ShouldRateLimit", "PERMISSION_DENIED" if told else "OK")]


async def test_names_of_the_flag_are_asked_first_and_both_must_agree(
    world: World, serve: Serve
) -> None:
    served = world.port(EDGE, "stranger")
    async with serve(world.service, served) as server:
        codes = {}
        for san in (EDGE, "batch.internal", "stranger"):
            codes[san] = await ask(server, world.authority, world.certificate(san))

    assert codes[EDGE] == (OK, "")
    assert codes["batch.internal"] == (DENIED, "--grpc-client-san does not list `batch.internal`")
    assert codes["stranger"] == (DENIED, "callers.yaml has no entry for `stranger`")
    assert refusals(served) == {"name": 1, "unknown": 1}


async def test_reloaded_file_holds_for_connections_that_are_open(
    world: World, serve: Serve
) -> None:
    async with (
        serve(world.service, world.port()) as server,
        channel_to(server.address, world.authority, world.certificate(EDGE)) as channel,
    ):

        async def code(domain: str) -> grpc.StatusCode:
            return (await status_of(raw_call(channel)(body(domain), timeout=TIMEOUT_S)))[0]

        assert [await code("shop"), await code("login")] == [OK, DENIED]
        world.holder.callers = callers_of(FILE.replace("[shop]", "[login]"))
        assert [await code("shop"), await code("login")] == [DENIED, OK]
        world.holder.callers = callers_of(FILE.replace(EDGE, "urn:other"))
        assert [await code("shop"), await code("login")] == [DENIED, DENIED]
        world.holder.callers = None
        assert [await code("shop"), await code("login")] == [OK, OK]


async def test_without_a_file_nobody_is_looked_up(world: World, serve: Serve) -> None:
    world.holder.callers = None
    async with serve(world.service, world.port()) as server:
        found = await ask(server, world.authority, world.certificate("stranger"), "any")

    assert found == (OK, "")
    assert [context.caller for context in world.service.contexts] == [None]


async def test_unknown_method_is_unimplemented_for_everybody(world: World, serve: Serve) -> None:
    async with (
        serve(world.service, world.port()) as server,
        channel_to(server.address, world.authority, world.certificate("stranger")) as channel,
    ):
        code, _ = await status_of(raw_call(channel, "/a.B/C")(b"", timeout=TIMEOUT_S))

    assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_calls_in_one_read_are_sorted_one_by_one(world: World, serve: Serve) -> None:
    async with (
        serve(world.service, world.port()) as server,
        channel_to(server.address, world.authority, world.certificate(EDGE)) as channel,
    ):
        call = raw_call(channel)
        found = await asyncio.gather(
            *(
                status_of(call(body("shop" if number % 2 else "login"), timeout=TIMEOUT_S))
                for number in range(40)
            )
        )

    assert [code for code, _ in found] == [DENIED, OK] * 20
