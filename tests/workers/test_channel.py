"""Both ends of a real channel: what arrives, what is refused, and who owns a socket."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.workers.channel import (
    MAX_PER_READ,
    MAX_WAITING,
    Channel,
    channel_pair,
    inherited_channel,
)
from ratelimitd.workers.messages import (
    Adopt,
    Begin,
    ChannelError,
    Connections,
    Drain,
    Draining,
    GoAway,
    Listener,
    Message,
    PolicyChanged,
    PolicyInForce,
    Ready,
    from_wire,
    to_wire,
)

MESSAGES: list[Message] = [
    Begin(1, 3, "/run/ratelimitd", 2.5, "é" * 1000),
    PolicyChanged(7),
    GoAway(2),
    Drain(),
    Ready(),
    Connections(Listener.HTTP, adopted=9, open=4),
    PolicyInForce(7, "5f1e"),
    Draining(),
]
NUMBERS = st.integers(0, 2**53)


@dataclass
class Ends:
    ours: Channel
    theirs: Channel


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, sock = channel_pair()
    pair = Ends(ours, Channel(sock))
    yield pair
    pair.ours.close()
    pair.theirs.close()


@pytest.fixture
def raw() -> Iterator[tuple[Channel, socket.socket]]:
    """Give a channel, and a bare socket for what no peer of ours would send."""
    ours, sock = channel_pair()
    yield ours, sock
    ours.close()
    sock.close()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_channel_delivers_messages_whole_and_in_order(ends: Ends) -> None:
    for message in MESSAGES:
        ends.ours.send(message)

    assert ends.theirs.receive() == MESSAGES
    assert ends.theirs.receive() == []
    assert not ends.theirs.is_ended


def test_channel_works_both_ways(ends: Ends) -> None:
    ends.ours.send(GoAway(1))
    ends.theirs.send(Ready())

    assert ends.theirs.receive() == [GoAway(1)]
    assert ends.ours.receive() == [Ready()]


def test_channel_hands_over_a_socket_that_works_and_keeps_none(ends: Ends) -> None:
    near, far = socket.socketpair()
    before = open_descriptors()

    ends.ours.send(Adopt(Listener.HTTP, near))
    (message,) = ends.theirs.receive()

    assert near.fileno() == -1
    assert isinstance(message, Adopt)
    assert message.listener is Listener.HTTP
    assert message.sock is not None
    assert not message.sock.get_inheritable()
    assert open_descriptors() == before
    far.send(b"hello")
    assert message.sock.recv(16) == b"hello"
    message.sock.close()
    far.close()


def test_channel_reads_a_bounded_number_of_messages_at_once(ends: Ends) -> None:
    sent = [GoAway(number) for number in range(MAX_PER_READ + 1)]
    for message in sent:
        ends.ours.send(message)

    assert ends.theirs.receive() == sent[:-1]
    assert ends.theirs.receive() == sent[-1:]


def test_channel_keeps_what_the_peer_has_no_room_for(ends: Ends) -> None:
    sent = 0
    while not ends.ours.is_full:
        ends.ours.send(GoAway(sent))
        sent += 1

    received: list[Message] = []
    while messages := ends.theirs.receive():
        received += messages
        ends.ours.flush()

    assert received == [GoAway(number) for number in range(sent)]
    assert not ends.ours.is_full


def test_channel_ends_with_a_peer_that_does_not_read(ends: Ends) -> None:
    while not ends.ours.is_full:
        ends.ours.send(Ready())
    near, far = socket.socketpair()
    ends.ours.send(Adopt(Listener.GRPC, near))

    for _ in range(MAX_WAITING - 2):
        ends.ours.send(Ready())
    with pytest.raises(ChannelError, match="does not read"):
        ends.ours.send(Ready())

    # A socket that was never handed over ends with the channel.
    ends.ours.close()
    assert near.fileno() == -1
    assert far.recv(1) == b""
    far.close()


def test_channel_delivers_what_was_sent_before_the_peer_ended(ends: Ends) -> None:
    ends.ours.send(Ready())
    ends.ours.close()

    assert ends.theirs.receive() == [Ready()]
    assert ends.theirs.is_ended
    with pytest.raises(ChannelError, match="the peer is gone"):
        ends.theirs.send(Ready())


def test_channel_closes_sockets_that_nobody_read(ends: Ends) -> None:
    near, far = socket.socketpair()
    ends.ours.send(Adopt(Listener.GRPC, near))

    ends.theirs.close()

    far.settimeout(5)
    assert far.recv(1) == b""
    far.close()


@pytest.mark.parametrize(
    ("packet", "told"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"{}", "without a name"),
        (b"[]", "without a name"),
        (b"[1]", "without a name"),
        (b'["Reload"]', "called 'Reload'"),
        (b'["GoAway"]', "GoAway with 0 fields"),
        (b'["GoAway",1,2]', "GoAway with 2 fields"),
        (b'["GoAway",-1]', "GoAway.count"),
        (b'["GoAway",1.5]', "GoAway.count"),
        (b'["GoAway",true]', "GoAway.count"),
        (b'["GoAway",9007199254740993]', "GoAway.count"),
        (b'["Begin",1,2,"x",NaN,"y"]', "Begin.grace_s"),
        (b'["Begin",1,2,"x","soon","y"]', "Begin.grace_s"),
        (b'["Adopt",2]', "Adopt.listener"),
        (b'["Adopt",[0]]', "Adopt.listener"),
        (b'["Begin",1,2,3,4,"x"]', "Begin.directory"),
        (b" " * 70_000, "more than 65536 bytes"),
    ],
)
def test_channel_refuses_garbage(
    raw: tuple[Channel, socket.socket], packet: bytes, told: str
) -> None:
    channel, sock = raw
    sock.send(packet)

    with pytest.raises(ChannelError, match=told):
        channel.receive()


@pytest.mark.parametrize(
    ("packet", "count", "told"),
    [
        (b'["Ready"]', 1, "1 sockets with Ready"),
        (b'["Adopt",0]', 2, "2 sockets"),
        (b"{", 1, "JSON"),
    ],
)
def test_channel_closes_the_sockets_of_garbage(
    raw: tuple[Channel, socket.socket], packet: bytes, count: int, told: str
) -> None:
    channel, sock = raw
    near, far = socket.socketpair()
    before = open_descriptors()
    socket.send_fds(sock, [packet], [near.fileno()] * count)

    with pytest.raises(ChannelError, match=told):
        channel.receive()

    assert open_descriptors() == before
    near.close()
    far.close()


def test_channel_refuses_a_descriptor_that_is_no_socket(
    raw: tuple[Channel, socket.socket],
) -> None:
    channel, sock = raw
    with Path("/dev/null").open() as file:
        socket.send_fds(sock, [b'["Adopt",0]'], [file.fileno()])
        with pytest.raises(ChannelError, match="no socket"):
            channel.receive()


def test_adopt_without_its_socket_is_a_message(raw: tuple[Channel, socket.socket]) -> None:
    # The kernel delivers it so when a process has no room for one more descriptor.
    channel, sock = raw
    sock.send(b'["Adopt",1]')

    assert channel.receive() == [Adopt(Listener.HTTP, None)]


def test_inherited_channel_is_the_other_end() -> None:
    ours, sock = channel_pair()
    theirs = inherited_channel(sock.detach())

    ours.send(Ready())

    assert theirs.receive() == [Ready()]
    ours.close()
    theirs.close()


def test_inherited_channel_refuses_other_descriptors() -> None:
    stream, other = socket.socketpair()
    with pytest.raises(ChannelError, match="no channel"):
        inherited_channel(stream.detach())
    other.close()
    descriptor = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(ChannelError, match="no socket"):
        inherited_channel(descriptor)
    os.close(descriptor)


@given(
    st.one_of(
        st.builds(Begin, NUMBERS, NUMBERS, st.text(), st.floats(0, 1e9), st.text()),
        st.builds(Connections, st.sampled_from(Listener), NUMBERS, NUMBERS),
        st.builds(PolicyInForce, NUMBERS, st.text()),
    )
)
def test_messages_come_back_as_they_were(message: Message) -> None:
    assert from_wire(to_wire(message)) == message


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=2),
    )
)
def test_anything_else_is_a_channel_error(wire: object) -> None:
    with pytest.raises(ChannelError):
        from_wire(wire)
