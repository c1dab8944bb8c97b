"""gRPC health and reflection, asked by grpcio's own clients."""

import asyncio

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ratelimitd.services.health import SERVICE_NAMES, HealthState
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.transport.health import HealthReporter
from ratelimitd.transport.reflection import reflection_servicer
from tests.transport.support import SERVICE, EchoService, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("name", SERVICE_NAMES)
async def test_health_follows_the_state_under_every_name(name: str) -> None:
    state = HealthState(holder=PolicyHolder())
    reporter = HealthReporter(state)
    await reporter.refresh()
    async with (
        serving(EchoService(), add_servicers=lambda s: add_health(reporter, s)) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=name)
        assert (await stub.Check(request)).status == SERVING

        watch = stub.Watch(request)
        assert (await watch.read()).status == SERVING
        state.is_draining = True
        await reporter.refresh()

        assert (await asyncio.wait_for(watch.read(), 10)).status == NOT_SERVING
        assert (await stub.Check(request)).status == NOT_SERVING


async def test_watch_ends_when_the_daemon_drains_and_holds_no_grace() -> None:
    state = HealthState(holder=PolicyHolder())
    reporter = HealthReporter(state)
    await reporter.refresh()
    async with (
        serving(EchoService(), add_servicers=lambda s: add_health(reporter, s)) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        watches = [
            health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=name))
            for name in ("", "nobody")
        ]
        for watch in watches:
            await watch.read()

        state.is_draining = True
        await reporter.refresh()

        await asyncio.wait_for(server.stop(60), 10)
        assert (await watches[0].read()).status == NOT_SERVING
        for watch in watches:
            assert await watch.read() is grpc.aio.EOF


async def test_watch_tells_changes_and_nothing_else() -> None:
    state = HealthState(holder=PolicyHolder(), needs_store=True)
    reporter = HealthReporter(state)
    await reporter.refresh()
    async with (
        serving(EchoService(), add_servicers=lambda s: add_health(reporter, s)) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        told = [(await watch.read()).status]
        for is_up in (True, True, False):
            state.is_store_up = is_up
            await reporter.refresh()
            if is_up != (told[-1] == SERVING):
                told.append((await asyncio.wait_for(watch.read(), 10)).status)
        watch.cancel()

    assert told == [NOT_SERVING, SERVING, NOT_SERVING]


async def test_health_does_not_know_other_names() -> None:
    reporter = HealthReporter(HealthState(holder=PolicyHolder()))
    async with (
        serving(EchoService(), add_servicers=lambda s: add_health(reporter, s)) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_describes_our_services_and_healths() -> None:
    names = (SERVICE, "ratelimitd.inspect.v1.InspectService", "grpc.health.v1.Health")
    async with (
        serving(EchoService(), add_servicers=lambda s: add_reflection(names, s)) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        listing = await ask(stub, reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {each.name for each in listing.list_services_response.service}
        assert listed == {*names, "grpc.reflection.v1alpha.ServerReflection"}

        for name in listed:
            request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
            answer = await ask(stub, request)
            files = [
                FileDescriptorProto.FromString(data)
                for data in answer.file_descriptor_response.file_descriptor_proto
            ]
            services = {f"{file.package}.{one.name}" for file in files for one in file.service}
            assert name in services
            known = {file.name for file in files}
            assert all(needed in known for file in files for needed in file.dependency)


async def test_reflection_of_an_unknown_name_is_an_error_in_the_answer() -> None:
    async with (
        serving(EchoService(), add_servicers=lambda s: add_reflection((), s)) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.Such")

        answer = await ask(stub, request)

    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def ask(
    stub: reflection_pb2_grpc.ServerReflectionStub, request: reflection_pb2.ServerReflectionRequest
) -> reflection_pb2.ServerReflectionResponse:
    (answer,) = [answer async for answer in stub.ServerReflectionInfo(iter([request]))]
    assert isinstance(answer, reflection_pb2.ServerReflectionResponse)
    return answer


def add_health(reporter: HealthReporter, server: grpc.aio.Server) -> None:
    health_pb2_grpc.add_HealthServicer_to_server(reporter.servicer, server)


def add_reflection(names: tuple[str, ...], server: grpc.aio.Server) -> None:
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection_servicer(names), server)
