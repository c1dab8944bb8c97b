"""Reads of records that are not cached: what many callers want travels in one command.

Rules:
- One command is in flight; who comes meanwhile waits for the next.
- Each is told once, within the store's timeout; an error is that of all who wait then.
- A record that changed while it was read is read again, so no old one is ever kept.
- Bounded: beyond MAX_WAITING names nobody waits, and who comes is told StoreOverloaded.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from ratelimitd.decisions.subject import Subject
from ratelimitd.defects import DefectLog
from ratelimitd.errors import StoreError, StoreOverloaded, StoreUnavailable
from ratelimitd.store.subjects import MAX_FIELDS, OnRecords, Records

MAX_WAITING: Final = 10_000

# Gets None when all that was wanted is cached, or why it is not.
OnRead = Callable[[StoreError | None], None]

_log = logging.getLogger(__name__)


class Source(Protocol):
    """What reads records."""

    def send_get(self, fields: Sequence[str], done: OnRecords) -> None:
        """Read the records of `fields` in one command; `done` is told once."""
        ...


class _Want:
    """One caller; `missing` are the names that it still waits for."""

    __slots__ = ("deadline_s", "done", "missing")

    def __init__(self, missing: set[str], done: OnRead, deadline_s: float) -> None:
        self.missing = missing
        self.done = done
        self.deadline_s = deadline_s


class SubjectReads:
    """Asks `source`, and gives what it read to `keep`."""

    def __init__(
        self,
        source: Source,
        keep: Callable[[str, Subject | None], None],
        *,
        timeout_s: float,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """Ask nothing yet; needs a running loop."""
        self._source = source
        self._keep = keep
        self._timeout_s = timeout_s
        self._max_waiting = max_waiting
        self._loop = asyncio.get_running_loop()
        self._wants: deque[_Want] = deque()
        self._waiting = 0
        self._asked: Sequence[str] = ()
        # Of those asked for: what changed since they were.
        self._changed: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._defects = DefectLog(_log)

    def want(self, missing: Collection[str], done: OnRead) -> None:
        """Read `missing`; `done` is told once, perhaps before this returns."""
        assert missing, "who wants nothing has it"
        if self._waiting + len(missing) > self._max_waiting:
            done(StoreOverloaded("store: too many records of subjects are waited for"))
            return
        self._wants.append(_Want(set(missing), done, self._loop.time() + self._timeout_s))
        self._waiting += len(missing)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._give_up)
        if not self._asked:
            self._ask()

    def forget(self, fields: Collection[str] | None) -> None:
        """Do not keep what is being read of `fields`, None for all: it may be from before."""
        if self._asked:
            self._changed.update(self._asked if fields is None else fields)

    def close(self) -> None:
        """Tell everybody that nothing will come."""
        self._end_all(StoreUnavailable("store: shutting down"))
        if self._timer is not None:
            self._timer.cancel()

    def _ask(self) -> None:
        """Send for what is missing, those first who came first."""
        names: dict[str, None] = {}
        for want in self._wants:
            names.update(dict.fromkeys(want.missing))
            if len(names) >= MAX_FIELDS:
                break
        self._asked = list(names)[:MAX_FIELDS]
        self._changed.clear()
        if self._asked:
            self._source.send_get(self._asked, self._on_records)

    def _on_records(self, found: Records | StoreError) -> None:
        asked, self._asked = self._asked, ()
        if isinstance(found, StoreError):
            self._end_all(found)
        else:
            read = {
                field: subject
                for field, subject in zip(asked, found, strict=True)
                if field not in self._changed
            }
            for field, subject in read.items():
                self._keep(field, subject)
            self._end_read(read)
        if self._wants and not self._asked:
            self._ask()

    def _end_read(self, read: Collection[str]) -> None:
        """Tell those who have all that they wanted."""
        waiting, self._wants = self._wants, deque()
        ended: list[_Want] = []
        for want in waiting:
            before = len(want.missing)
            want.missing.difference_update(read)
            self._waiting -= before - len(want.missing)
            (self._wants if want.missing else ended).append(want)
        for want in ended:
            self._tell(want, None)

    def _end_all(self, error: StoreError) -> None:
        ended, self._wants = self._wants, deque()
        self._waiting = 0
        for want in ended:
            self._tell(want, error)

    def _give_up(self) -> None:
        """Tell those who have waited for the store's timeout."""
        self._timer = None
        now_s = self._loop.time()
        while self._wants and self._wants[0].deadline_s <= now_s:
            want = self._wants.popleft()
            self._waiting -= len(want.missing)
            self._tell(want, StoreUnavailable("store: no record of a subject in time"))
        if self._wants and self._timer is None:
            self._timer = self._loop.call_at(self._wants[0].deadline_s, self._give_up)

    def _tell(self, want: _Want, error: StoreError | None) -> None:
        try:
            want.done(error)
        except Exception as defect:  # noqa: BLE001 - the others must be told all the same
            self._defects.record(defect, "whoever waited for a subject failed")
