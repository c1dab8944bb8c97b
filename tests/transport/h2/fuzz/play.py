"""Plays a case against a connection, and asserts what must hold whatever a peer sends.

After each step: no exception has escaped; what is kept is within the bounds, and counted right;
every call is what the peer's frames say, is handed out once, and is awaited until it is answered
or reset; nothing waits behind open windows; what is sent is readable, within the peer's windows,
answers nothing twice, and is the same without remembered header blocks. At the end: every request
was answered or reset; and another connection of the same server is served as if nothing happened.
"""
# The state of the connection is what its peer cannot see and we want to know.
# ruff: noqa: SLF001

import struct
from collections.abc import Iterator
from dataclasses import replace

import hyperframe.frame

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.bounds import Bounds
from ratelimitd.transport.h2.connection import Call, Connection
from ratelimitd.transport.h2.frames import ErrorCode
from ratelimitd.transport.h2.profile import Counters, Profile
from tests.transport.h2 import peer
from tests.transport.h2.fuzz.case import BOUNDS, Case, Kind, Step
from tests.transport.h2.fuzz.kept import check_memory, check_windows
from tests.transport.h2.fuzz.model import Requests, Responses

# The paths of the sessions that cases begin from.
ENVOY_PATH = b"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
METHODS = {peer.PATH: "handle", ENVOY_PATH: "handle"}
_BODY = bytes(range(256)) * 256
_PLENTY = 2**24
# A behaviour that a case shows: a kind of step, something that it did, and the state around it.
Feature = tuple[object, ...]


def play(case: Case, *, is_valid: bool = False) -> set[Feature]:
    """Play `case`; return what it showed. AssertionError says which rule was broken.

    A valid one is that of a client which breaks no rule of the protocol.
    """
    player = _Player(BOUNDS[case.bounds])
    for step in case.steps:
        player.play(step)
    player.end()
    if is_valid:
        errors = player.counters.connection_errors.keys() - {ErrorCode.NO_ERROR.name}
        assert not errors, f"a client in good order was told {errors}"
    return player.features


class _Player:
    def __init__(self, bounds: Bounds) -> None:
        self.features: set[Feature] = set()
        self._bounds = bounds
        self._profile = Profile(METHODS, bounds)
        self._connection = Connection(self._profile)
        # The same without a memory of header blocks.
        plain = Profile(METHODS, replace(bounds, remembered_block_bytes=0))
        self._twin = Connection(plain)
        self._neighbour = Connection(self._profile)
        self._neighbour.receive(frames.PREFACE + frames.settings({}))
        self._neighbour.take_output()
        self._requests = Requests()
        self._responses = Responses()
        self._handed: list[int] = []
        self._answered: set[int] = set()
        # The highest stream of the reads before one that ended the connection.
        self._last_begun: int | None = None
        self._counts: dict[str, int] = {}

    @property
    def counters(self) -> Counters:
        """Return what the connection counted."""
        return self._profile.counters

    def play(self, step: Step) -> None:
        """Do one step, with the twin too, and look at everything."""
        if step.kind in {Kind.ANSWER, Kind.FAIL}:
            self._answer(step)
        elif step.kind is Kind.ANSWER_ALL:
            self._answer_all(step)
        elif step.kind is Kind.WRITE:
            self._write()
        was_closing = self._connection.is_closing
        was_ended = was_closing or self._connection._is_final
        calls = self._act(self._connection, step)
        assert self._act(self._twin, step) == calls, "remembered header blocks change calls"
        if step.kind is Kind.RECEIVE:
            if self._connection.is_closing and not was_ended and self._requests.is_readable:
                self._last_begun = max(self._requests.streams, default=0)
            if not was_closing:
                self._requests.receive(step.data)
            is_understood = self._requests.is_readable or self._connection.is_closing
            assert is_understood, "a frame or block is taken that cannot be read"
        self._check_calls(calls)
        check_memory(self._connection, self._profile)
        check_windows(self._connection)
        self._note(step, calls)

    def end(self) -> None:
        """Answer what is left, open all windows, and look once more; then at the neighbour."""
        while not self._connection.is_closing and any(self._open_calls()):
            self.play(Step(Kind.ANSWER, 0, 9))
        self._write()
        if not self._connection.is_closing and self._requests.is_whole:
            self._open_windows()
        if not self._connection.is_closing and self._requests.is_whole:
            self._check_all_answered()
        self._connection.lose()
        assert self._connection.is_idle, "a lost connection is not idle"
        assert not self._connection.buffered_bytes, "a lost connection keeps something"
        self._check_neighbour()

    def _act(self, connection: Connection, step: Step) -> list[Call]:
        """Do what needs no choice; return the calls that came of it."""
        match step.kind:
            case Kind.RECEIVE:
                return connection.receive(step.data)
            case Kind.INTERVAL:
                connection.new_interval()
            case Kind.DRAIN:
                connection.drain()
            case Kind.FINISH_DRAIN:
                connection.finish_drain()
            case Kind.PING if not connection.is_closing:
                connection.ping(len(self._handed))
            case Kind.CLOSE:
                connection.close(ErrorCode.NO_ERROR, "idle")
            case Kind.LOSE:
                connection.lose()
        return []

    def _open_calls(self) -> Iterator[int]:
        """Yield the calls that wait for an answer, oldest first."""
        is_awaited = self._connection.is_awaited
        return (each for each in self._handed if is_awaited(each))

    def _answer(self, step: Step) -> None:
        """Answer the `at`-th open call; without one, a call that nobody waits for."""
        open_calls = list(self._open_calls())
        dropped = self.counters.answers_dropped
        if open_calls:
            stream_id = open_calls[step.at % len(open_calls)]
            self._answered.add(stream_id)
        else:
            stream_id = self._handed[step.at % len(self._handed)] if self._handed else step.at
        for connection in (self._connection, self._twin):
            if step.kind is Kind.ANSWER:
                connection.answer(stream_id, _BODY[: step.size])
            else:
                details = _BODY[: step.at] if step.at & 1 else b""
                connection.fail(stream_id, step.size % 17, "bad: \N{SNOWMAN}\n%", details)
        is_dropped = self.counters.answers_dropped > dropped
        assert is_dropped != bool(open_calls), "an answer was lost, or came from nowhere"

    def _answer_all(self, step: Step) -> None:
        """Answer all open calls at once, and between them one that nobody waits for."""
        open_calls = list(self._open_calls())
        stray = max([*self._handed, *open_calls], default=1) + 2
        answers = [(stream_id, _BODY[: step.size]) for stream_id in open_calls]
        answers.insert(step.at % (len(answers) + 1), (stray, b"stray"))
        self._answered.update(open_calls)
        dropped = [each.answer_all(answers) for each in (self._connection, self._twin)]
        # Answers that run over their bound end the connection, and nothing is counted.
        is_over = self._connection.is_closing and bool(open_calls)
        assert dropped[0] == dropped[1]
        assert dropped[0] == 1 or is_over, "an answer was lost, or came from nowhere"

    def _write(self) -> None:
        """Read what is written, as the peer does."""
        responses, requests = self._responses, self._requests
        output = self._connection.take_output()
        assert self._twin.take_output() == output, "remembered header blocks change answers"
        assert not self._connection.take_output(), "output is handed out twice"
        responses.receive(output)
        assert responses.data_bytes <= requests.granted, "more DATA than the connection's window"
        for stream_id, response in responses.streams.items():
            # A stream that was skipped may be reset; only one that was opened is answered.
            is_known = stream_id in requests.streams or not requests.is_readable
            assert is_known or not response.has_headers, f"{stream_id} was answered, not asked"
            window = requests.largest_initial + requests.granted_to.get(stream_id, 0)
            assert response.body_bytes <= window, f"more DATA than the window of {stream_id}"
        assert responses.settings_acks <= requests.settings
        assert responses.pongs == requests.pings[: len(responses.pongs)]
        if self._last_begun is not None:
            assert responses.last_streams[-1] == self._last_begun, "GOAWAY names a wrong stream"
        if not self._connection.is_closing:
            self._check_granted()

    def _check_calls(self, calls: list[Call]) -> None:
        """Compare the calls of a read with what the peer sent."""
        connection = self._connection
        for stream_id, head, message in calls:
            assert stream_id & 1, "a call on a stream that no client opens"
            assert stream_id not in self._handed, f"call {stream_id} was handed out twice"
            self._handed.append(stream_id)
            assert len(message) <= self._bounds.message_bytes
            if not self._requests.is_readable:
                continue
            request = self._requests.streams[stream_id]
            assert head.method == METHODS[request.fields[b":path"]]
            assert request.fields[b":method"] == b"POST"
            assert request.is_ended, "a call before its request ended"
            size = struct.unpack(">I", request.body[1:5])[0]
            assert (request.body[0], message) == (0, bytes(request.body[5 : 5 + size]))
            assert len(message) == size
            trace = request.fields.get(b"traceparent")
            assert head.trace_parent == (None if trace is None else trace.decode("latin-1"))
        open_calls = set(self._open_calls())
        assert connection.calls_in_flight == len(open_calls), "a call is awaited by nobody"
        assert not open_calls & self._answered, "an answered call is awaited"
        assert not (open_calls and connection.is_closing), "a connection awaits beyond its end"

    def _check_granted(self) -> None:
        """Look whether the peer may go on sending, and not more than we said."""
        requests, granted = self._requests, self._responses.granted
        window = self._bounds.connection_window
        assert window // 2 <= granted[0] - requests.data_bytes <= window, "a wrong window"
        for stream_id, stream in self._connection._intake.streams.items():
            if stream.refusal is None and requests.is_readable:
                request = requests.streams[stream_id]
                assert not request.is_reset, f"request {stream_id} is kept although it was reset"
                assert not request.is_ended, f"request {stream_id} ended and is kept"
                room = granted.get(stream_id, frames.DEFAULT_WINDOW) - request.data_bytes
                assert frames.DEFAULT_WINDOW // 2 <= room <= frames.DEFAULT_WINDOW

    def _note(self, step: Step, calls: list[Call]) -> None:
        """Keep what this step showed: each thing that happened, in the state it happened in."""
        connection, counters = self._connection, self.counters
        counts = {**counters.refused, **counters.connection_errors, **counters.over_bound}
        counts |= {"hit": counters.block_hits, "dropped": counters.answers_dropped}
        state = (
            connection.is_closing,
            bool(connection._tail),
            bool(connection._block_stream),
            bool(connection._out.waiting),
            bool(connection._intake.streams),
            bool(connection._out.awaiting),
            connection._is_draining + connection._is_final,
        )
        events = [name for name, count in counts.items() if count > self._counts.get(name, 0)]
        events += [connection.end_reason, f"{len(calls).bit_length()} calls"]
        events += [f"{connection.buffered_bytes.bit_length()} kept"]
        events += [f"sent {kind}/{detail}" for kind, detail in self._responses.seen]
        self.features.update((step.kind, event, *state) for event in events)
        self._counts = counts
        self._responses.seen = set()

    def _open_windows(self) -> None:
        """Let everything pass that waits for windows."""
        out = self._connection._out
        opened = [0, *out.waiting] if out.waiting else []
        for stream_id in opened:
            # In an interval of its own, so that it is no flood.
            self.play(Step(Kind.INTERVAL))
            self.play(Step(Kind.RECEIVE, data=frames.window_update(stream_id, _PLENTY)))
        self._write()
        assert not out.waiting, "answers wait although the windows are open"

    def _check_all_answered(self) -> None:
        """Look for requests that were neither answered nor reset, on a connection in order."""
        requests, responses = self._requests, self._responses
        if not requests.is_readable:
            return
        assert responses.settings_acks == requests.settings
        assert responses.pongs == requests.pings
        last = (responses.last_streams or [frames.MAX_WINDOW])[-1]
        for stream_id, request in requests.streams.items():
            if request.is_reset or not request.is_ended or stream_id > last:
                continue
            response = responses.streams.get(stream_id)
            assert response is not None, f"request {stream_id} was dropped"
            assert response.is_ended or response.is_reset, f"request {stream_id} is half answered"

    def _check_neighbour(self) -> None:
        """Let the other connection of the same server make a call."""
        calls = self._neighbour.receive(peer.call(1, b"hello"))
        assert [(each[0], each[1].method, each[2]) for each in calls] == [(1, "handle", b"hello")]
        self._neighbour.answer(1, b"hello")
        sent = peer.sent_frames(self._neighbour.take_output())
        assert [each.type for each in sent] == [frames.HEADERS, frames.DATA, frames.HEADERS]
        assert isinstance(sent[1], hyperframe.frame.DataFrame)
        assert sent[1].data == peer.message(b"hello")
