"""Mixed callers through grpcio, for watching a daemon under a varied load (not for comparing).

    ratelimitd dev --policy bench/policy
    locust -f bench/locustfile.py --headless --host 127.0.0.1:8081

The shape bounds it: at most PEAK_USERS users, RUN_S seconds. Point it at a test daemon only.
"""

import itertools
import random
import time

import grpc
import grpc.experimental.gevent
from locust import LoadTestShape, User, constant_throughput, task

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
CALL_TIMEOUT_S = 0.25
PEAK_USERS = 60
RUN_S = 30
RAMP_S = 10

grpc.experimental.gevent.init_gevent()

Entries = tuple[tuple[str, str], ...]


class Bounded(LoadTestShape):
    """Up to the peak in ten seconds, then steady until the end."""

    def tick(self) -> tuple[int, float] | None:
        """Return (users, users to start per second), None at the end."""
        elapsed_s: float = self.get_run_time()  # type: ignore[no-untyped-call]  # locust has no hints
        if elapsed_s > RUN_S:
            return None
        return max(1, round(PEAK_USERS * min(1.0, elapsed_s / RAMP_S))), 10.0


class Caller(User):
    """A gateway with one connection; the subclasses say what it asks."""

    abstract = True
    wait_time = constant_throughput(20)

    def on_start(self) -> None:
        """Connect."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(self.host or "127.0.0.1:8081", options=options)
        self.call = self.channel.unary_unary(
            METHOD,
            request_serializer=rls_pb2.RateLimitRequest.SerializeToString,
            response_deserializer=rls_pb2.RateLimitResponse.FromString,
        )

    def on_stop(self) -> None:
        """Disconnect."""
        self.channel.close()

    def ask(self, name: str, *descriptors: Entries, hits: int = 1) -> None:
        """Send one request and report it under `name`, or `name refused`."""
        message = rls_pb2.RateLimitRequest(domain="bench", hits_addend=hits)
        for entries in descriptors:
            added = message.descriptors.add()
            for key, value in entries:
                added.entries.add(key=key, value=value)
        start_s = time.perf_counter()
        error: grpc.RpcError | None = None
        size = 0
        try:
            answer = self.call(message, timeout=CALL_TIMEOUT_S)
            size = answer.ByteSize()
            if answer.overall_code == rls_pb2.RateLimitResponse.OVER_LIMIT:
                name += " refused"
        except grpc.RpcError as caught:
            error = caught
        self.environment.events.request.fire(
            request_type="grpc",
            name=name,
            response_time=(time.perf_counter() - start_s) * 1e3,
            response_length=size,
            exception=error,
        )


class Visitor(Caller):
    """Many users, each seldom: the store sees ever new keys."""

    weight = 6

    @task
    def visit(self) -> None:
        """Ask for any of a million users."""
        self.ask("visitor", (("user", f"{random.randrange(1_000_000):09d}"),))


class Tenant(Caller):
    """A few loud tenants, refused most of the time."""

    weight = 2

    @task
    def shout(self) -> None:
        """Ask for one of three tenants."""
        self.ask("tenant", (("tenant", random.choice("abc")),))


class Api(Caller):
    """Several descriptors in one request, one of them two levels deep."""

    weight = 2
    paths = itertools.cycle(("/api/orders", "/api/users", "/health"))

    @task(5)
    def call_api(self) -> None:
        """Ask for the path, for the user of the path, and for the user."""
        path, user = next(self.paths), f"{random.randrange(200):09d}"
        self.ask(
            "api",
            (("path", path),),
            (("path", path), ("user", user)),
            (("user", user),),
        )

    @task(1)
    def debit(self) -> None:
        """Spend many at once, as a token quota does."""
        self.ask("debit", (("user", "000000001"),), hits=random.randrange(1, 500))
