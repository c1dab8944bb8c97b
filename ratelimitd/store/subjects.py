"""The registry in the store: records of subjects, and blocked entries.

    rl:1:{10}@subjects           hash: name of an entry -> record
    rl:1:{10}@subjects:index     sorted set: the same names, for listings
    rl:1:{10}@subjects:changes   sorted set: name -> version of its change, the last MAX_CHANGES
    rl:1:{10}@subjects:meta      hash: epoch, version, floor, blocks
    rl:1:{10}@blocks             hash: name of an entry -> block
    rl:1:{10}@blocks:ends        sorted set: name -> when its block ends

Rules:
- One hash tag, so one Cluster slot, and one script may change all of it. No algorithm's letter is
  `@`, so no counter has such a key. After `@` stands `prefix!` where one is set.
- These keys have no time to live, and `volatile-ttl` does not evict them: what an operator said
  holds until it is taken back.
- Each change is published; a subscriber learns only that there is something to ask for.
- A record that cannot be read counts as absent, and is told of once.
"""

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ratelimitd.decisions.keys import KEY_PREFIX, PARTITION_TAGS, escaped, slot_of
from ratelimitd.decisions.subject import Block, Subject
from ratelimitd.decisions.subject_entry import names_of, shown
from ratelimitd.errors import StoreError, StoreReplyLost
from ratelimitd.store.address import Endpoint
from ratelimitd.store.connection import STORE_TIMEOUT_S, Answers, NodeClient
from ratelimitd.store.exchange import Argument, Command, script_call
from ratelimitd.store.scripts import SubjectScripts
from ratelimitd.store.subject_record import from_block, from_record, to_block, to_record
from ratelimitd.store.subject_replies import (
    NEVER_ASKED,
    Changes,
    Known,
    Written,
    to_changes,
    to_known,
    to_written,
)
from ratelimitd.store.topology import ClusterClient

MAX_SUBJECTS: Final = 1_000_000
MAX_BLOCKS: Final = 10_000
# Who missed more begins anew: that costs reading again what is cached.
MAX_CHANGES: Final = 10_000
# What one call writes, reads or tells, so that no call holds up the store's decisions for long.
MAX_FIELDS: Final = 1_000
# Records that cannot be read, of which it is remembered that they were told of.
MAX_TOLD: Final = 1_000
EPOCH_BYTES: Final = 8

_TAG: Final = PARTITION_TAGS[0]
_log = logging.getLogger(__name__)

Records = Sequence[Subject | None]
OnRecords = Callable[[Records | StoreError], None]


class Write(NamedTuple):
    """One record to write, or to delete where `subject` is None.

    `version` is the one that must be there, 0 for none, None for any.
    """

    field: str
    subject: Subject | None
    version: int | None = None


class Page(NamedTuple):
    """Some records with their names; `next` is the last name if there are more, else empty."""

    records: Sequence[tuple[str, Subject]]
    next: str


@dataclass(frozen=True, slots=True)
class Keys:
    """Where the registry is."""

    records: bytes
    index: bytes
    changes: bytes
    meta: bytes
    blocks: bytes
    ends: bytes
    channel: bytes


def keys_of(prefix: str = "") -> Keys:
    """Return the keys of the registry that daemons with this `prefix` share."""
    head = KEY_PREFIX + f"{{{_TAG}}}@{f'{escaped(prefix)}!' if prefix else ''}".encode()
    names = ("subjects", "subjects:index", "subjects:changes", "subjects:meta", "blocks")
    return Keys(*(head + name.encode() for name in (*names, "blocks:ends", "changed")))


class SubjectStore:
    """Reads and changes the registry on the server, or Cluster, of `client`."""

    def __init__(
        self,
        client: NodeClient | ClusterClient,
        scripts: SubjectScripts,
        *,
        prefix: str = "",
        timeout_s: float = STORE_TIMEOUT_S,
    ) -> None:
        """Ask nothing yet; `timeout_s` is for reads that nobody sets a deadline for."""
        self.keys = keys_of(prefix)
        self.timeout_s = timeout_s
        self._client = client
        self._scripts = scripts
        self._slot = slot_of(_TAG.encode())
        self._told: set[str] = set()

    @property
    def is_silent(self) -> bool:
        """Whether a server of the store does not answer; who watches it tells that."""
        nodes = [self._client] if isinstance(self._client, NodeClient) else self._client.nodes
        return any(node.breaker.is_silent for node in nodes)

    async def home(self, *, timeout_s: float) -> Endpoint:
        """Return the server that has the registry; StoreUnavailable if none is known."""
        if isinstance(self._client, NodeClient):
            return self._client.endpoint
        return await self._client.owner_of(self._slot, timeout_s=timeout_s)

    def send_get(self, fields: Sequence[str], done: OnRecords) -> None:
        """Read the records of `fields` in one command; `done` is told once, and nothing raised."""
        assert 0 < len(fields) <= MAX_FIELDS
        command = Command(("HMGET", self.keys.records, *fields))

        def on_answers(answers: Answers) -> None:
            (answer,) = answers
            if isinstance(answer, StoreError):
                done(answer)
            elif not isinstance(answer, list) or len(answer) != len(fields):
                done(_unreadable())
            else:
                done(self._read(fields, answer))

        if isinstance(self._client, NodeClient):
            self._client.send([command], on_answers)
        else:
            self._client.send_by_slot([(self._slot, command)], on_answers)

    async def get(self, fields: Sequence[str], *, timeout_s: float) -> Records:
        """Read the records of `fields`, at most MAX_FIELDS."""
        assert 0 < len(fields) <= MAX_FIELDS
        answer = await self._run("HMGET", self.keys.records, *fields, timeout_s=timeout_s)
        return self._read(fields, _list(answer))

    async def page(self, domain: str, after: str, count: int, *, timeout_s: float) -> Page:
        """Return at most `count` records of `domain` in the order of their names.

        They are those behind the name `after`, or the first ones where that is empty. One that
        was deleted this moment, or cannot be read, is left out.
        """
        first, beyond = names_of(domain)
        start = f"({after}" if after else f"[{first}"
        bounds = (start, f"({beyond}", "BYLEX", "LIMIT", 0, count + 1)
        answer = await self._run("ZRANGE", self.keys.index, *bounds, timeout_s=timeout_s)
        names = [name.decode(errors="replace") for name in _list(answer)]
        if not names:
            return Page((), "")
        shown_now = names[:count]
        found = await self.get(shown_now, timeout_s=timeout_s)
        there = [(name, one) for name, one in zip(shown_now, found, strict=True) if one is not None]
        return Page(there, shown_now[-1] if len(names) > count else "")

    async def write(self, writes: Sequence[Write], *, timeout_s: float) -> Written:
        """Write all or none; a record that is there is replaced."""
        assert 0 < len(writes) <= MAX_FIELDS
        assert len({one.field for one in writes}) == len(writes)
        keys = self.keys
        argv: list[Argument] = [keys.channel, _new_epoch(), MAX_SUBJECTS, MAX_CHANGES]
        for one in writes:
            version = "" if one.version is None else one.version
            argv += (one.field, version, b"" if one.subject is None else to_record(one.subject))
        names = (keys.records, keys.index, keys.changes, keys.meta)
        call = script_call(self._scripts.write, names, argv)
        return to_written(await self._ask(call, timeout_s=timeout_s))

    async def block(self, blocks: Sequence[Block], *, timeout_s: float) -> Written:
        """Block all of `blocks`, or none; a block that is there is replaced."""
        return await self._change_blocks(
            [
                (one.entry, "" if one.until_us is None else one.until_us, to_block(one))
                for one in blocks
            ],
            timeout_s=timeout_s,
        )

    async def unblock(self, entries: Sequence[str], *, timeout_s: float) -> Written:
        """Unblock `entries`."""
        return await self._change_blocks([(one, "", b"") for one in entries], timeout_s=timeout_s)

    async def blocks(self, *, timeout_s: float) -> list[Block]:
        """Return all blocks, also those that have expired and were not removed yet."""
        answer = await self._run("HGETALL", self.keys.blocks, timeout_s=timeout_s)
        return self._read_blocks(_list(answer))

    async def known(self, *, timeout_s: float) -> Known:
        """Return how far the registry is: what `changes` is asked with next time."""
        meta = await self._run(
            "HMGET", self.keys.meta, "epoch", "version", "blocks", timeout_s=timeout_s
        )
        return to_known(_list(meta))

    async def changes(self, since: Known = NEVER_ASKED, *, timeout_s: float) -> Changes:
        """Return what changed since `since`, at most MAX_FIELDS names."""
        keys = self.keys
        names = (keys.changes, keys.meta, keys.blocks)
        argv = (since.epoch, since.version, since.blocks, MAX_FIELDS)
        call = script_call(self._scripts.changes, names, argv)
        return to_changes(await self._ask(call, timeout_s=timeout_s), self._read_blocks)

    async def _change_blocks(
        self, writes: Sequence[tuple[str, str | int, bytes]], *, timeout_s: float
    ) -> Written:
        assert 0 < len(writes) <= MAX_FIELDS
        assert len({field for field, _, _ in writes}) == len(writes)
        keys = self.keys
        argv: list[Argument] = ["", keys.channel, _new_epoch(), MAX_BLOCKS]
        for one in writes:
            argv += one
        call = script_call(self._scripts.block, (keys.blocks, keys.ends, keys.meta), argv)
        return to_written(await self._ask(call, timeout_s=timeout_s))

    async def _run(self, *arguments: Argument, timeout_s: float) -> object:
        return await self._ask(Command(arguments), timeout_s=timeout_s)

    async def _ask(self, command: Command, *, timeout_s: float) -> object:
        """Run one command where the registry is, and return its reply."""
        if isinstance(self._client, NodeClient):
            (answer,) = await self._client.run_all([command], timeout_s=timeout_s)
        else:
            pairs = [(self._slot, command)]
            (answer,) = await self._client.run_by_slot(pairs, timeout_s=timeout_s)
        if isinstance(answer, StoreError):
            raise answer
        return answer

    def _read(self, fields: Sequence[str], records: Sequence[bytes | None]) -> Records:
        found: list[Subject | None] = []
        for field, record in zip(fields, records, strict=True):
            subject = None if record is None else from_record(record)
            if record is not None and subject is None:
                self._tell("subject", field)
            found.append(subject)
        return found

    def _read_blocks(self, flat: Sequence[bytes]) -> list[Block]:
        """Return the blocks of `name, block, ...`."""
        found = []
        for field, stored in zip(flat[::2], flat[1::2], strict=True):
            block = from_block(field, stored)
            if block is None:
                self._tell("block", field.decode(errors="replace"))
            else:
                found.append(block)
        return found

    def _tell(self, kind: str, field: str) -> None:
        """Log that what is stored under `field` cannot be read, once."""
        what = f"{kind} {shown(field)}"
        if what not in self._told:
            if len(self._told) >= MAX_TOLD:
                self._told.clear()
            self._told.add(what)
            _log.warning("the store's record of the %s cannot be read: it counts as absent", what)


def _new_epoch() -> str:
    """Return the name of a registry's life, for the first write of it."""
    return secrets.token_hex(EPOCH_BYTES)


def _list(answer: object) -> list[bytes]:
    if not isinstance(answer, list):
        raise _unreadable()
    return answer


def _unreadable() -> StoreReplyLost:
    return StoreReplyLost("store: its answer about subjects cannot be read; see docs/subjects.md")
