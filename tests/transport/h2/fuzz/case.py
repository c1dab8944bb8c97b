"""One case of the fuzzer: which bounds a connection has, and what happens to it, step by step.

Rules:
- A case is a file of some hundred bytes. Every byte string is a case: what is cut is short, what
  is out of range is taken modulo.
"""

from collections.abc import Sequence
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from ratelimitd.transport.h2.bounds import Bounds


class Kind(IntEnum):
    """What a step does; `at` chooses among the calls that were handed out."""

    RECEIVE = 0  # `data` is read
    ANSWER = 1  # a call is answered with `size` bytes
    FAIL = 2  # a call is answered with the status `size`
    WRITE = 3  # the output is written
    INTERVAL = 4  # a second passes
    DRAIN = 5
    FINISH_DRAIN = 6
    PING = 7
    CLOSE = 8
    LOSE = 9  # the peer is gone
    ANSWER_ALL = 10  # all calls are answered at once, and one that nobody waits for


class Step(NamedTuple):
    """One step; RECEIVE has `data`, the answers have `at` and `size`."""

    kind: Kind
    at: int = 0
    size: int = 0
    data: bytes = b""


class Case(NamedTuple):
    """A connection's life."""

    bounds: int
    steps: tuple[Step, ...]


# The daemon's own, and some that are reached soon.
BOUNDS = (
    Bounds(),
    Bounds(
        concurrent_streams=8,
        message_bytes=600,
        header_list_bytes=700,
        header_block_bytes=900,
        continuation_frames=2,
        buffered_request_bytes=2000,
        buffered_answer_bytes=500,
        connection_window=65_535,
        header_intervals=2,
        body_intervals=2,
        answer_intervals=2,
        remembered_blocks=2,
        remembered_block_bytes=200,
    ),
    Bounds(
        concurrent_streams=2,
        message_bytes=60_000,
        connection_window=100_000,
        resets_per_interval=3,
        stream_errors_per_interval=3,
        settings_per_interval=3,
        pings_per_interval=3,
        empty_data_per_interval=3,
        window_updates_per_interval=3,
        other_frames_per_interval=3,
        frames_per_call=1,
        header_intervals=1,
        body_intervals=1,
        answer_intervals=1,
    ),
)

_DATA = Struct(">BH")
_ANSWER = Struct(">BBH")
MAX_SIZE = 0xFFFF
_SHOWN_STEPS, _SHOWN_BYTES = 40, 200


def to_bytes(case: Case) -> bytes:
    """Return the file of a case."""
    out = bytearray((case.bounds,))
    for step in case.steps:
        match step.kind:
            case Kind.RECEIVE:
                for start in range(0, len(step.data) or 1, MAX_SIZE):
                    part = step.data[start : start + MAX_SIZE]
                    out += _DATA.pack(step.kind, len(part)) + part
            case Kind.ANSWER | Kind.FAIL | Kind.ANSWER_ALL:
                out += _ANSWER.pack(step.kind, step.at, step.size)
            case _:
                out.append(step.kind)
    return bytes(out)


def from_bytes(text: bytes) -> Case:
    """Return the case of a file."""
    steps = []
    position = 1
    while position < len(text):
        kind = Kind(text[position] % len(Kind))
        if kind is Kind.RECEIVE:
            _, size = _DATA.unpack(text[position : position + _DATA.size].ljust(_DATA.size, b"\0"))
            position += _DATA.size
            steps.append(Step(kind, data=text[position : position + size]))
            position += size
        elif kind in {Kind.ANSWER, Kind.FAIL, Kind.ANSWER_ALL}:
            parts = text[position : position + _ANSWER.size].ljust(_ANSWER.size, b"\0")
            _, at, size = _ANSWER.unpack(parts)
            position += _ANSWER.size
            steps.append(Step(kind, at, size))
        else:
            position += 1
            steps.append(Step(kind))
    return Case((text[0] if text else 0) % len(BOUNDS), tuple(steps))


def to_text(case: Case) -> str:
    """Return a case as a person reads it, long reads and cases cut."""
    lines = [f"bounds {case.bounds}"]
    for step in case.steps[:_SHOWN_STEPS]:
        shown = step.data[:_SHOWN_BYTES].hex() + ("..." if len(step.data) > _SHOWN_BYTES else "")
        lines.append(f"{step.kind.name} at={step.at} size={step.size} {len(step.data)} {shown}")
    return "\n".join(lines)


def sent_bytes(steps: Sequence[Step]) -> int:
    """Return how much the peer sends."""
    return sum(len(step.data) for step in steps)
