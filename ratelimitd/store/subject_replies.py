"""What the scripts of the registry answer, as values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from ratelimitd.decisions.subject import Block
from ratelimitd.errors import StoreReplyLost


class Status(IntEnum):
    """How a change ended; one meaning with lua/lib/registry.lua."""

    OK = 0
    CONFLICT = 1
    FULL = 2


@dataclass(frozen=True, slots=True)
class Written:
    """How a change ended.

    OK: `version` is the registry's now, and `count` says how many entries changed. CONFLICT: the
    write at index `count` found `version`. FULL: there are `count` entries already.
    """

    status: Status
    version: int
    count: int


class Known(NamedTuple):
    """How far somebody knows the registry: another `epoch` is another life of it."""

    epoch: str
    version: int
    blocks: int


# A registry that was never written looks the same, so nothing need be asked about it.
NEVER_ASKED = Known("", 0, 0)


class Changes(NamedTuple):
    """What changed; `blocks` is None where they did not.

    With `is_reset` nothing that was known holds. With `has_more` there is more, since `known`.
    """

    known: Known
    fields: Sequence[str]
    is_reset: bool
    has_more: bool
    blocks: Sequence[Block] | None


def to_written(answer: object) -> Written:
    """Return what `subject_write` or `subject_block` answered."""
    match answer:
        case [Status.OK, int(version), int(count)]:
            return Written(Status.OK, version, count)
        case [Status.CONFLICT, int(index), int(version)]:
            return Written(Status.CONFLICT, version, index)
        case [Status.FULL, int(count)]:
            return Written(Status.FULL, 0, count)
        case _:
            raise _unreadable()


def to_known(meta: Sequence[bytes | None]) -> Known:
    """Return what HMGET answered for epoch, version and blocks."""
    epoch, version, blocks = meta
    try:
        return Known((epoch or b"").decode(errors="replace"), int(version or 0), int(blocks or 0))
    except ValueError as error:
        raise _unreadable() from error


def to_changes(answer: object, read_blocks: Callable[[Sequence[bytes]], list[Block]]) -> Changes:
    """Return what `subject_changes` answered."""
    match answer:
        case [
            int(is_reset),
            bytes(epoch),
            int(version),
            int(has_more),
            int(blocks_version),
            list(fields),
            int(has_blocks),
            list(blocks),
        ]:
            return Changes(
                known=Known(epoch.decode(errors="replace"), version, blocks_version),
                fields=[field.decode(errors="replace") for field in fields],
                is_reset=bool(is_reset),
                has_more=bool(has_more),
                blocks=read_blocks(blocks) if has_blocks else None,
            )
        case _:
            raise _unreadable()


def _unreadable() -> StoreReplyLost:
    return StoreReplyLost("store: a script of the registry answered what cannot be read")
