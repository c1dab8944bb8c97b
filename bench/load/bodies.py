"""Request bodies, encoded before the clock starts: a list to send from, drawn with a seed."""

import itertools
from random import Random

from grpc_health.v1 import health_pb2

from bench.load.frames import U32
from bench.load.spec import Body, Draw, LoadSpec
from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2

# So many draws are made ahead and then sent again; keys that are more are all drawn once.
DRAWS = 2**18
ZIPF_EXPONENT = 1.1
MAX_DESCRIPTORS = 10
# All keys have one length, so that a request is the same bytes around its number.
DIGITS = 9
_PLACE = "#" * DIGITS


def make_bodies(spec: LoadSpec) -> list[bytes]:
    """Return messages with their gRPC prefix, in the order to send them."""
    if spec.body is Body.HEALTH:
        return [_prefixed(health_pb2.HealthCheckRequest().SerializeToString())]
    parts = _parts(spec.body, spec.descriptors)
    known: dict[int, bytes] = {}
    bodies = []
    for key in draw_keys(spec.keys, spec.draw, f"{spec.seed}/keys"):
        body = known.get(key)
        if body is None:
            body = known[key] = _prefixed((b"%0*d" % (DIGITS, key)).join(parts))
        bodies.append(body)
    return bodies


def draw_keys(keys: int, draw: Draw, seed: str) -> list[int]:
    """Return numbers below `keys`: uniform ones repeat only after all were drawn."""
    random = Random(seed)
    if draw is Draw.UNIFORM:
        found: list[int] = []
        while len(found) < DRAWS:
            found += random.sample(range(keys), keys)
        return found
    weights = itertools.accumulate((rank + 1) ** -ZIPF_EXPONENT for rank in range(keys))
    return random.choices(range(keys), cum_weights=list(weights), k=DRAWS)


def entry_key(descriptor: int) -> str:
    """Return the key of a request's descriptor; the policy has a limit for each."""
    return "user" if descriptor == 0 else f"extra{descriptor}"


def _parts(body: Body, descriptors: int) -> list[bytes]:
    """Return the bytes around the number, which each descriptor has as its value."""
    assert 1 <= descriptors <= MAX_DESCRIPTORS, "the policy has no more limits"
    domain = "bench_scopes" if body is Body.SCOPES else "bench"
    message = rls_pb2.RateLimitRequest(domain=domain)
    for number in range(descriptors):
        key = entry_key(number) if body is Body.LIMITS else body.value
        message.descriptors.add().entries.add(key=key, value=_PLACE)
    return message.SerializeToString().split(_PLACE.encode())


def _prefixed(message: bytes) -> bytes:
    return b"\0" + U32.pack(len(message)) + message
