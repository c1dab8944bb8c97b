"""What the supervisor and a worker tell each other, and how it is written."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, Final


class ChannelError(Exception):
    """What came over a channel, or did not, is no message of ours."""


class Listener(IntEnum):
    """What a connection was accepted for."""

    GRPC = 0
    HTTP = 1


@dataclass(frozen=True, slots=True)
class Begin:
    """To a worker, first of all: what it is, where its files are, and the settings of its work.

    `slot` is its place among the workers, `number` is never given twice. `grace_s` is what calls
    in flight have when it ends.
    """

    slot: int
    number: int
    directory: str
    grace_s: float
    settings: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """To a worker: serve a connection. `sock` is None if there was no room for a descriptor."""

    listener: Listener
    sock: socket.socket | None = None


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    """To a worker: the copy of the policy in its directory is now the one with `serial`."""

    serial: int


@dataclass(frozen=True, slots=True)
class GoAway:
    """To a worker: ask `count` of its gRPC connections to leave."""

    count: int


@dataclass(frozen=True, slots=True)
class Drain:
    """To a worker: finish what is in flight, and end."""


@dataclass(frozen=True, slots=True)
class Ready:
    """From a worker: connections can come."""


@dataclass(frozen=True, slots=True)
class Connections:
    """From a worker: how many connections it was handed since its start, and how many are open."""

    listener: Listener
    adopted: int
    open: int


@dataclass(frozen=True, slots=True)
class PolicyInForce:
    """From a worker: what it serves since it read the policy with `serial`, "" for none."""

    serial: int
    revision: str


@dataclass(frozen=True, slots=True)
class Draining:
    """From a worker: it is ending, on its own account or because it was told to."""


Message = (
    Begin | Adopt | PolicyChanged | GoAway | Drain | Ready | Connections | PolicyInForce | Draining
)

_TYPES: Final[Mapping[str, type[Message]]] = {
    kind.__name__: kind
    for kind in (
        Begin,
        Adopt,
        PolicyChanged,
        GoAway,
        Drain,
        Ready,
        Connections,
        PolicyInForce,
        Draining,
    )
}
_MAX_NUMBER: Final = 2**53


def to_wire(message: Message) -> list[object]:
    """Return `message` as a list of its name and its fields; a socket travels beside it."""
    values = [getattr(message, field.name) for field in fields(message)]
    return [
        type(message).__name__,
        *(value for value in values if not isinstance(value, socket.socket | None)),
    ]


def from_wire(wire: object) -> Message:
    """Return the message; ChannelError if it is none."""
    if not isinstance(wire, list) or not wire or not isinstance(wire[0], str):
        raise ChannelError("a message without a name")
    kind = _TYPES.get(wire[0])
    if kind is None:
        raise ChannelError(f"a message called {wire[0][:32]!r}")
    wanted = [field for field in fields(kind) if field.name != "sock"]
    if len(wanted) != len(wire) - 1:
        raise ChannelError(f"{kind.__name__} with {len(wire) - 1} fields")
    values = (
        _from_field(field.type, value, f"{kind.__name__}.{field.name}")
        for field, value in zip(wanted, wire[1:], strict=True)
    )
    return kind(*values)


def _from_field(kind: Any, value: object, where: str) -> Any:
    """Return `value` as a field of type `kind`."""
    if kind is str and isinstance(value, str):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= value <= _MAX_NUMBER:  # type: ignore[operator] # a number, see above
        if kind is float:
            return float(value)  # type: ignore[arg-type] # a number, see above
        if kind is int and isinstance(value, int):
            return value
        if kind is Listener and value in tuple(Listener):
            return Listener(value)  # type: ignore[arg-type] # one of them, see above
    raise ChannelError(f"{where}: {str(value)[:32]!r}")
