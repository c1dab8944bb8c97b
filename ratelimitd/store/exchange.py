"""One exchange on one connection: commands written at once, their answers read in order.

Rules:
- `is_written` of a call says "perhaps run": it is set before the first byte goes out, and taken
  back only when every answer says that the server ran nothing.
- An error reply is the answer of its own command; only a broken connection ends them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hiredis import pack_command
from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from ratelimitd.errors import StoreError, StoreUnavailable
from ratelimitd.store.address import Endpoint
from ratelimitd.store.failures import (
    ERROR_REPLIES,
    ScriptMissing,
    from_broken_connection,
    from_reply_error,
)
from ratelimitd.store.scripts import Script

Argument = bytes | str | int


@dataclass(frozen=True, slots=True)
class Command:
    """One command; with `script` it is its EVALSHA and `arguments` follow the SHA."""

    arguments: tuple[Argument, ...]
    script: Script | None = None
    is_asking: bool = False


class Unanswered:
    """Stands for an answer that has not come."""


@dataclass(slots=True)
class Call:
    """Commands on their way together; `silence` is why no (further) answer came."""

    commands: Sequence[Command]
    answers: list[object] = field(init=False)
    is_written: bool = False
    is_abandoned: bool = False
    silence: StoreError | None = None

    def __post_init__(self) -> None:
        """Nothing is answered yet."""
        self.answers = [Unanswered()] * len(self.commands)

    def fill(self, error: StoreError) -> None:
        """Give `error` to every command that has no answer."""
        self.answers = [error if isinstance(a, Unanswered) else a for a in self.answers]


def script_call(script: Script, keys: Sequence[bytes], argv: Sequence[Argument]) -> Command:
    """Return the call of `script` with these KEYS and ARGV."""
    return Command((len(keys), *keys, *argv), script)


async def exchange(
    connection: AbstractConnection,
    endpoint: Endpoint,
    call: Call,
    todo: Sequence[int],
    scripts: Sequence[Script],
) -> bool:
    """Load `scripts` and run the commands `todo`; whether the connection is good for more.

    The answers are in the call, whatever happened; the caller closes a connection that is not
    good, or on whose exchange it gave up.
    """
    packets: list[tuple[Argument, ...]] = [("SCRIPT", "LOAD", one.text) for one in scripts]
    owners: list[int | None] = [None] * len(scripts)
    for index in todo:
        command = call.commands[index]
        if command.is_asking:
            packets.append(("ASKING",))
            owners.append(None)
        packets.append(_packet(command))
        owners.append(index)
        call.answers[index] = Unanswered()
    call.is_written = True
    try:
        # hiredis packs in C what costs redis-py a microsecond an argument.
        packed = b"".join([_pack(packet) for packet in packets])
        await connection.send_packed_command(packed, check_health=False)
        is_good = await _read_answers(connection, endpoint, call, owners)
    except (redis_errors.RedisError, OSError) as error:
        call.silence = from_broken_connection(error, endpoint)
        call.fill(call.silence)
        is_good = False
    call.is_written = not all(isinstance(answer, StoreUnavailable) for answer in call.answers)
    return is_good


async def _read_answers(
    connection: AbstractConnection, endpoint: Endpoint, call: Call, owners: Sequence[int | None]
) -> bool:
    """Read an answer for each of `owners`; None owns what only prepares the next command."""
    is_good = True
    load_error: StoreError | None = None
    for owner in owners:
        answer: object
        try:
            answer = await connection.read_response(disconnect_on_error=False)
        except ERROR_REPLIES as error:
            answer = from_reply_error(error, endpoint)
            # After a failover the name may lead to the new primary: dial again.
            is_good = is_good and not isinstance(error, redis_errors.ReadOnlyError)
        if owner is not None:
            is_missing = isinstance(answer, ScriptMissing)
            call.answers[owner] = load_error if is_missing and load_error else answer
        elif isinstance(answer, StoreError):
            load_error = answer
    return is_good


def _pack(packet: tuple[Argument, ...]) -> bytes:
    packed: bytes = pack_command(packet)  # type: ignore[arg-type]  # its stub knows one argument
    return packed


def _packet(command: Command) -> tuple[Argument, ...]:
    if command.script is None:
        return command.arguments
    return ("EVALSHA", command.script.sha, *command.arguments)
