"""Changes of a case: of its steps, of the frames that are received, and of their bytes."""

from collections.abc import Callable, Sequence
from random import Random

from ratelimitd.transport.h2 import frames
from tests.transport.h2.fuzz.case import BOUNDS, Case, Kind, Step, sent_bytes
from tests.transport.h2.fuzz.sessions import any_step
from tests.transport.h2.peer import data, message

MAX_STEPS = 120
MAX_SENT_BYTES = 130_000
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x3FFF, 0x4000, 0x4001, 0xFFFF, 2**24 - 1, 2**31 - 1, 2**31)
_LENGTH, _HEAD = 3, 9


def mutate(case: Case, others: Sequence[Case], random: Random) -> Case:
    """Return a case a few changes away from `case`; parts may come from `others`."""
    for _ in range(random.choice((1, 1, 2, 3, 5, 8))):
        change = random.choices((_change_steps, _change_frames, _change_bytes), (3, 4, 2))[0]
        case = change(case, others, random)
    steps = list(case.steps[:MAX_STEPS])
    while sent_bytes(steps) > MAX_SENT_BYTES:
        del steps[random.randrange(len(steps))]
    return Case(case.bounds, tuple(steps))


def _change_steps(case: Case, others: Sequence[Case], random: Random) -> Case:
    steps = list(case.steps)
    at = random.randrange(len(steps) + 1)
    match random.randrange(10):
        case 8 | 9:
            _repeat_call(steps, random)
        case 0:
            del steps[at : at + random.randrange(1, 4)]
        case 1:
            steps[at:at] = steps[at : at + random.randrange(1, 4)] * random.choice((1, 1, 2, 9))
        case 2 | 3:
            steps.insert(at, any_step(random))
        case 4:
            other = random.choice(others).steps
            first = random.randrange(len(other) + 1)
            steps[at:] = other[first:]
        case 5:
            return Case(random.randrange(len(BOUNDS)), case.steps)
        case 6:
            _split_read(steps, random)
        case _:
            _join_two_reads(steps, at)
    return Case(case.bounds, tuple(steps))


def join_reads(case: Case) -> Case:
    """Return the case with one read wherever there are several in a row."""
    steps: list[Step] = []
    for step in case.steps:
        if steps and step.kind is steps[-1].kind is Kind.RECEIVE:
            steps[-1] = _read(steps[-1].data + step.data)
        else:
            steps.append(step)
    return Case(case.bounds, tuple(steps))


def _repeat_call(steps: list[Step], random: Random) -> None:
    """Send the header block of a call once more, as a new call: it may mean something else now."""
    sent = [part for at in _reads(steps) for part in to_frames(without_preface(steps[at].data))]
    calls = [part for part in sent if len(part) > _HEAD and part[3] == frames.HEADERS]
    if calls:
        last = max(int.from_bytes(part[5:9], "big") & frames.STREAM_MASK for part in calls)
        block = random.choice(calls)[_HEAD:]
        again = frames.frame(frames.HEADERS, frames.END_HEADERS, (last | 1) + 2, block)
        steps.append(_read(again + data((last | 1) + 2, message(b"again"))))


def _split_read(steps: list[Step], random: Random) -> None:
    reads = _reads(steps)
    if reads:
        at = random.choice(reads)
        sent = steps[at].data
        cut = random.randrange(len(sent) + 1)
        steps[at : at + 1] = [_read(sent[:cut]), _read(sent[cut:])]


def _join_two_reads(steps: list[Step], at: int) -> None:
    """Make one read of the one at or behind `at` and the next."""
    reads = [each for each in _reads(steps) if each >= at][:2]
    if len(reads) == 2:
        first, second = reads
        steps[first] = _read(steps[first].data + steps[second].data)
        del steps[second]


def _change_bytes(case: Case, others: Sequence[Case], random: Random) -> Case:
    """Change some bytes of a read, whatever they mean."""
    return _with_read(case, random, lambda sent: _scratch(sent, random))


def _scratch(sent: bytes, random: Random) -> bytes:
    out = bytearray(sent)
    at = random.randrange(len(out) + 1)
    match random.randrange(5):
        case 0 if at < len(out):
            out[at] ^= 1 << random.randrange(8)
        case 1 if at < len(out):
            out[at] = random.choice(_NUMBERS) & 0xFF
        case 2:
            del out[at : at + random.choice((1, 2, 9, 40))]
        case 3:
            out[at:at] = random.randbytes(random.choice((1, 2, 9, 40)))
        case _:
            start = random.randrange(len(out) + 1)
            out[at:at] = out[start : start + random.choice((1, 4, 9, 60))]
    return bytes(out)


def _change_frames(case: Case, others: Sequence[Case], random: Random) -> Case:
    """Change a read as a list of frames, so that what follows is still read as frames."""

    def change(sent: bytes) -> bytes:
        parts = to_frames(without_preface(sent))
        _change_list(parts, others, random)
        start = len(frames.PREFACE) if sent.startswith(frames.PREFACE) else 0
        return sent[:start] + b"".join(parts)

    return _with_read(case, random, change)


def _change_list(parts: list[bytes], others: Sequence[Case], random: Random) -> None:
    if not parts:
        parts.append(_any_frame(others, random))
        return
    at = random.randrange(len(parts))
    match random.randrange(9):
        case 0:
            del parts[at]
        case 1:
            parts[at:at] = [parts[at]] * random.choice((1, 1, 1, 4, 30))
        case 2:
            other = random.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        case 3 | 4:
            parts.insert(at, _any_frame(others, random))
        case 5:
            _renumber(parts, at)
        case _:
            parts[at] = _change_frame(parts[at], random)


def _change_frame(part: bytes, random: Random) -> bytes:
    """Change one field of a frame, or its payload, and keep its length true."""
    if len(part) < _HEAD:
        return part
    kind, flags, stream_id = part[3], part[4], int.from_bytes(part[5:9], "big")
    payload = part[_HEAD:]
    match random.randrange(6):
        case 0:
            kind = random.choice((*range(11), random.randrange(256)))
        case 1:
            flags ^= random.choice((1, 4, 8, 32, 0x40))
        case 2:
            nearby = stream_id + random.choice((-4, -2, -1, 1, 2, 4, 40))
            stream_id = random.choice((nearby % 2**32, nearby % 2**32, random.choice(_NUMBERS)))
        case 3 if len(payload) >= 4:
            value = random.choice(_NUMBERS).to_bytes(4, "big")
            offset = random.randrange(len(payload) - 3)
            payload = payload[:offset] + value + payload[offset + 4 :]
        case 4:
            payload = payload[: random.randrange(len(payload) + 1)]
        case _:
            payload = _scratch(payload, random)
    return frames.frame(kind, flags, stream_id, payload[:0xFFFF])


def _renumber(parts: list[bytes], at: int) -> None:
    """Move the streams from `at` on by two, as if a call stood before them."""
    for index in range(at, len(parts)):
        part = parts[index]
        stream_id = int.from_bytes(part[5:9], "big")
        if len(part) >= _HEAD and stream_id:
            parts[index] = part[:5] + ((stream_id + 2) % 2**32).to_bytes(4, "big") + part[9:]


def _any_frame(others: Sequence[Case], random: Random) -> bytes:
    """Return a frame of another case."""
    steps = random.choice(others).steps
    reads = _reads(steps)
    if not reads:
        return frames.settings({})
    sent = without_preface(steps[random.choice(reads)].data)
    return random.choice(to_frames(sent) or [frames.settings({})])


def without_preface(sent: bytes) -> bytes:
    """Return what is sent behind the preface."""
    return sent.removeprefix(frames.PREFACE)


def to_frames(sent: bytes) -> list[bytes]:
    """Return the frames of what was sent; the last one may be cut."""
    parts = []
    position = 0
    while position < len(sent):
        length = _HEAD + int.from_bytes(sent[position : position + _LENGTH], "big")
        parts.append(sent[position : position + length])
        position += length
    return parts


def _with_read(case: Case, random: Random, change: Callable[[bytes], bytes]) -> Case:
    reads = _reads(case.steps)
    if not reads:
        return case
    at = random.choice(reads)
    steps = list(case.steps)
    steps[at] = _read(change(steps[at].data))
    return Case(case.bounds, tuple(steps))


def _reads(steps: Sequence[Step]) -> list[int]:
    return [index for index, step in enumerate(steps) if step.kind is Kind.RECEIVE]


def _read(sent: bytes) -> Step:
    return Step(Kind.RECEIVE, data=sent)
