"""What real clients sent, one connection each.

envoy-1.40-plain.bin: 60 calls of a gateway that asks about requests. envoy-1.40-traced.bin: 120
calls with the OpenTelemetry tracer sampling all of them, so that every block is new and moves the
dynamic table. The others are 60 calls of gRPC's libraries; capture.py makes them again.
"""

from pathlib import Path

import hpack
import hyperframe.frame
import pytest

from ratelimitd.transport.h2.bounds import Bounds
from ratelimitd.transport.h2.connection import Connection
from ratelimitd.transport.h2.hpack import Decoder
from ratelimitd.transport.h2.profile import Profile
from tests.transport.h2 import peer
from tests.transport.h2.capture import CALLS

_DATA = Path(__file__).parent / "data"
_METHODS = {b"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit": "should_rate_limit"}
_CAPTURES = {
    "envoy-1.40-plain.bin": 60,
    "envoy-1.40-traced.bin": 120,
    "grpc-core-1.85.1.bin": CALLS,
    "grpc-go-1.64.1.bin": CALLS,
    "grpc-js-1.12.6.bin": CALLS,
}


def _capture(name: str) -> bytes:
    return (_DATA / name).read_bytes()


@pytest.mark.parametrize("name", _CAPTURES)
@pytest.mark.parametrize("step", [100_000, 1000, 7])
def test_capture_gives_its_calls(name: str, step: int) -> None:
    connection = Connection(Profile(_METHODS, Bounds()))
    sent = _capture(name)

    calls = []
    for start in range(0, len(sent), step):
        found = connection.receive(sent[start : start + step])
        for stream_id, _, _ in found:
            connection.answer(stream_id, b"")
        calls += found

    assert connection.end_reason == ""
    assert sorted(each[0] for each in calls) == list(range(1, 2 * _CAPTURES[name], 2))
    assert {each[1].method for each in calls} == {"should_rate_limit"}
    assert len({each[2] for each in calls}) == 1
    traces = {each[1].trace_parent for each in calls}
    assert len(traces) == (120 if "traced" in name else 1)
    timeouts = [each[1].timeout_s for each in calls]
    if name.startswith("grpc-"):
        assert all(timeout is not None and 19 < timeout <= 20.1 for timeout in timeouts)


@pytest.mark.parametrize(
    ("name", "hits"), [("envoy-1.40-plain.bin", 58), ("envoy-1.40-traced.bin", 0)]
)
def test_capture_hits_remembered_blocks_without_tracing_only(name: str, hits: int) -> None:
    profile = Profile(_METHODS, Bounds())

    Connection(profile).receive(_capture(name))

    assert profile.counters.block_hits == hits


@pytest.mark.parametrize("name", _CAPTURES)
def test_capture_decodes_as_by_the_library(name: str) -> None:
    ours, library = Decoder(), hpack.Decoder()
    blocks = [
        frame.data
        for frame in peer.sent_frames(_capture(name)[24:])
        if isinstance(frame, hyperframe.frame.HeadersFrame)
    ]

    assert len(blocks) == _CAPTURES[name]
    for block in blocks:
        theirs = [tuple(each) for each in library.decode(block, raw=True)]
        assert list(zip(*ours.decode(block), strict=True)) == theirs
