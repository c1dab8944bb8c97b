"""Reflection: what the admin port tells grpcurl and friends about itself."""

from collections.abc import Iterable

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION
from grpc_reflection.v1alpha.reflection import aio as reflection_aio

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd._proto.ratelimitd.inspect.v1 import inspect_pb2


def reflection_servicer(services: Iterable[str]) -> reflection_aio.ReflectionServicer:
    """Return a servicer that lists `services` and describes all that ours use."""
    return reflection_aio.ReflectionServicer((*services, REFLECTION), pool=_pool())


def _pool() -> DescriptorPool:
    """Join our private descriptors and those of the packages we use in a pool of their own."""
    pool = DescriptorPool()
    added: set[str] = set()
    for module in (rls_pb2, inspect_pb2, health_pb2, reflection_pb2):
        _add(module.DESCRIPTOR, pool, added)
    return pool


def _add(file: FileDescriptor, pool: DescriptorPool, added: set[str]) -> None:
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add(dependency, pool, added)
    pool.AddSerializedFile(file.serialized_pb)
