"""Commands as bytes, and their replies as answers, for one exchange on one connection.

Rules:
- `is_written` of a call says "perhaps run": it is set before the first byte goes out, and taken
  back only when every answer says that the server ran nothing.
- An error reply is the answer of its own command; only a broken connection ends them all.
- What a server says it did not run, for want of the script or because it loads, stays to be done.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hiredis import pack_command

from ratelimitd.errors import StoreError, StoreUnavailable
from ratelimitd.store.address import Endpoint
from ratelimitd.store.failures import (
    ScriptMissing,
    StillLoading,
    from_broken_connection,
    from_reply_error,
    is_read_only,
)
from ratelimitd.store.link import ErrorReply
from ratelimitd.store.scripts import Script

Argument = bytes | str | int


class Command(NamedTuple):
    """One command; with `script` it is its EVALSHA and `arguments` follow the SHA."""

    arguments: tuple[Argument, ...]
    script: Script | None = None
    is_asking: bool = False


class Unanswered:
    """Stands for an answer that has not come."""


UNANSWERED = Unanswered()


class Call:
    """Commands on their way together; `silence` is why no (further) answer came.

    `todo` are those that have still to run, after `scripts` were loaded. `owners` says whose
    answer each reply of the exchange under way is; None owns what only prepares the next one.
    """

    __slots__ = (
        "answers",
        "commands",
        "has_loaded",
        "is_abandoned",
        "is_written",
        "owners",
        "scripts",
        "silence",
        "todo",
    )

    def __init__(self, commands: Sequence[Command]) -> None:
        """Nothing is answered yet."""
        self.commands = commands
        self.answers: list[object] = [UNANSWERED] * len(commands)
        self.todo: Sequence[int] = range(len(commands))
        self.scripts: Sequence[Script] = ()
        self.owners: Sequence[int | None] = ()
        self.is_written = False
        self.is_abandoned = False
        self.has_loaded = False
        self.silence: StoreError | None = None

    def fill(self, error: StoreError) -> None:
        """Give `error` to every command that has no answer."""
        self.answers = [error if isinstance(a, Unanswered) else a for a in self.answers]


# The owners of the replies to a command that is alone.
_ONE: Final = (0,)


def script_call(script: Script, keys: Sequence[bytes], argv: Sequence[Argument]) -> Command:
    """Return the call of `script` with these KEYS and ARGV."""
    return Command((len(keys), *keys, *argv), script)


def write(call: Call) -> bytes:
    """Return what is to be sent now; from here on it was perhaps run."""
    call.is_written = True
    if len(call.commands) == 1 and not call.scripts and not call.commands[0].is_asking:
        call.owners = _ONE
        call.answers[0] = UNANSWERED
        return pack(_packet(call.commands[0]))
    packets: list[tuple[Argument, ...]] = [("SCRIPT", "LOAD", one.text) for one in call.scripts]
    owners: list[int | None] = [None] * len(packets)
    for index in call.todo:
        command = call.commands[index]
        if command.is_asking:
            packets.append(("ASKING",))
            owners.append(None)
        packets.append(_packet(command))
        owners.append(index)
        call.answers[index] = UNANSWERED
    call.owners = owners
    return b"".join([pack(packet) for packet in packets])


def read(
    call: Call, endpoint: Endpoint, replies: Sequence[object], error: BaseException | None
) -> bool:
    """Take the replies to what `write` returned; whether the connection is good for more.

    Leaves in `todo` what has to be sent again, and in `scripts` what has to be loaded before.
    """
    if call.owners is _ONE and error is None and not isinstance(replies[0], ErrorReply):
        call.answers, call.todo = [replies[0]], ()
        return True
    is_good = error is None
    load_error: StoreError | None = None
    missing: list[int] = []
    loading: list[int] = []
    # Replies may be fewer than owners: the connection broke.
    for owner, reply in zip(call.owners, replies, strict=False):
        answer = reply
        if isinstance(reply, ErrorReply):
            answer = from_reply_error(reply, endpoint)
            # After a failover the name may lead to the new primary: dial again.
            is_good = is_good and not is_read_only(reply)
            if owner is None:
                load_error = answer
            elif isinstance(answer, ScriptMissing):
                answer = load_error or answer
                missing.append(owner)
            elif isinstance(answer, StillLoading):
                loading.append(owner)
        if owner is not None:
            call.answers[owner] = answer
    if error is not None:
        call.silence = from_broken_connection(error, endpoint)
        call.fill(call.silence)
    # A written command was perhaps run, unless every answer says that it was not.
    call.is_written = not all(isinstance(answer, StoreUnavailable) for answer in call.answers)
    _plan_next(call, missing, loading)
    return is_good


def pack(words: tuple[Argument, ...]) -> bytes:
    """Return one command as the bytes of the protocol."""
    packed: bytes = pack_command(words)  # type: ignore[arg-type]  # its stub knows one argument
    return packed


def _plan_next(call: Call, missing: Sequence[int], loading: Sequence[int]) -> None:
    """Send again what was not run; scripts are loaded once."""
    if missing and not call.has_loaded:
        found = (call.commands[index].script for index in missing)
        call.scripts = list({script.sha: script for script in found if script}.values())
        call.todo = sorted((*missing, *loading))
        call.has_loaded = True
    else:
        call.todo = loading


def _packet(command: Command) -> tuple[Argument, ...]:
    if command.script is None:
        return command.arguments
    return ("EVALSHA", command.script.sha, *command.arguments)
