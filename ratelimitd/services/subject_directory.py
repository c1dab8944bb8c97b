"""What this process knows of subjects and blocks; the store's registry is where it comes from.

Rules:
- `get` and `blocks` are looked up, never waited for. `blocks` is immutable: a change is a new one.
- Changes are asked for when a message says so, and each POLL_INTERVAL_S whatever messages say.
- While the store is away what was last known holds. A new subscription begins anew: the server may
  have lost what it had.
- What expires does so at a poll, by the wall clock that `now_us` is.
- Without records and blocks it costs one small command for each poll.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple, Protocol

from ratelimitd.decisions.subject import EMPTY, Block, Blocks, Subject, blocks_of
from ratelimitd.defects import DefectLog
from ratelimitd.errors import StoreError
from ratelimitd.services.subject_cache import MAX_RECORDS, UNKNOWN, Cached, SubjectCache
from ratelimitd.services.subject_reads import OnRead, SubjectReads
from ratelimitd.store.subject_replies import NEVER_ASKED, Changes, Known
from ratelimitd.store.subjects import MAX_CHANGES, MAX_FIELDS, OnRecords

POLL_INTERVAL_S: Final = 0.5
# More are not listed; who is so far behind is told to begin anew.
MAX_STEPS: Final = MAX_CHANGES // MAX_FIELDS + 1

_log = logging.getLogger(__name__)


class Registry(Protocol):
    """What is asked of the store."""

    timeout_s: float

    @property
    def is_silent(self) -> bool:
        """Whether the store does not answer at all."""
        ...

    def send_get(self, fields: Sequence[str], done: OnRecords) -> None:
        """Read the records of `fields` in one command; `done` is told once."""
        ...

    async def known(self, *, timeout_s: float) -> Known:
        """Return how far the registry is."""
        ...

    async def changes(self, since: Known = NEVER_ASKED, *, timeout_s: float) -> Changes:
        """Return what changed since `since`."""
        ...


class Change(NamedTuple):
    """What is not as it was: records of `fields`, all of them if `is_reset`, and the blocks."""

    fields: frozenset[str] = frozenset()
    is_reset: bool = False
    has_blocks: bool = False


class SubjectDirectory:
    """Records that were asked for, and all blocks; `listeners` are told of each change."""

    def __init__(
        self,
        registry: Registry,
        *,
        now_us: Callable[[], int],
        max_records: int = MAX_RECORDS,
    ) -> None:
        """Know nothing yet; needs a running loop."""
        self.blocks: Blocks = EMPTY
        self.listeners: list[Callable[[Change], None]] = []
        self._registry = registry
        self._now_us = now_us
        self._cache = SubjectCache(max_records)
        self.timeout_s = registry.timeout_s
        self._reads = SubjectReads(registry, self._keep, timeout_s=registry.timeout_s)
        self._known = NEVER_ASKED
        self._must_begin_anew = False
        self._next_block_change_us: int | None = None
        self._wake = asyncio.Event()
        self._told = ""
        self._defects = DefectLog(_log)

    def __len__(self) -> int:
        """Return how many records are cached, also those that say there is none."""
        return len(self._cache)

    def get(self, field: str) -> Cached:
        """Return the record of an entry, None where there is none, UNKNOWN if it must be read."""
        return self._cache.get(field)

    def want(self, fields: Collection[str], done: OnRead) -> None:
        """Read those of `fields` that are not known; `done` is told once, perhaps at once.

        It gets None when `get` knows them all, or why not: then nothing was cached. With fewer
        places in the cache than callers want, `get` may be UNKNOWN again.
        """
        missing = [field for field in fields if self._cache.get(field) is UNKNOWN]
        if missing:
            self._reads.want(missing, done)
        else:
            done(None)

    def wake(self) -> None:
        """Poll now: something changed."""
        self._wake.set()

    def begin_anew(self) -> None:
        """Poll now, and rely on nothing that was known before: changes may have been lost."""
        self._must_begin_anew = True
        self._wake.set()

    async def run(self, interval_s: float | None = POLL_INTERVAL_S) -> None:
        """Poll until cancelled; without an interval only when woken."""
        while True:
            try:
                async with asyncio.timeout(interval_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self.look()

    async def look(self) -> None:
        """Poll once; what goes wrong is told in the log, and what was known holds."""
        try:
            await self.poll()
        except StoreError as error:
            self._tell(error)
        except Exception as error:  # noqa: BLE001 - nobody would poll any more
            self._defects.record(error, "the registry of subjects cannot be followed")
        else:
            self._told = ""

    async def poll(self) -> None:
        """Follow the registry, and let expire what is over. Raises StoreError."""
        try:
            known = await self._registry.known(timeout_s=self._registry.timeout_s)
            if self._must_begin_anew or known != self._known:
                await self._follow()
        finally:
            self._expire()

    def close(self) -> None:
        """Tell those who wait that nothing will come."""
        self._reads.close()

    async def _follow(self) -> None:
        """Take over what changed, in steps."""
        for _ in range(MAX_STEPS):
            is_anew, self._must_begin_anew = self._must_begin_anew, False
            since = NEVER_ASKED if is_anew else self._known
            try:
                changes = await self._registry.changes(since, timeout_s=self._registry.timeout_s)
            except BaseException:
                self._must_begin_anew = self._must_begin_anew or is_anew
                raise
            self._take(changes, is_anew=is_anew)
            if not changes.has_more:
                return
        self._wake.set()

    def _take(self, changes: Changes, *, is_anew: bool) -> None:
        is_reset = is_anew or changes.is_reset
        if is_reset:
            self._reads.forget(None)
            fields: frozenset[str] = frozenset()
            had_records = len(self._cache) > 0
            self._cache.clear()
        else:
            self._reads.forget(changes.fields)
            fields = self._cache.drop(changes.fields)
            had_records = False
        blocks = changes.blocks
        if blocks is None and is_anew:
            blocks = ()  # a registry without a first write
        has_blocks = blocks is not None and self._set_blocks(blocks)
        self._known = changes.known
        if fields or had_records or has_blocks:
            self._tell_all(Change(fields, had_records, has_blocks))

    def _set_blocks(self, blocks: Sequence[Block]) -> bool:
        """Put `blocks` in force; False if they are those that are."""
        return self._use_blocks(blocks_of(blocks).at(self._now_us()))

    def _use_blocks(self, blocks: Blocks) -> bool:
        self._next_block_change_us = blocks.next_change_us
        if blocks == self.blocks:
            return False
        self.blocks = blocks
        return True

    def _expire(self) -> None:
        now_us = self._now_us()
        fields = self._cache.expire(now_us)
        has_blocks = False
        if self._next_block_change_us is not None and self._next_block_change_us <= now_us:
            has_blocks = self._use_blocks(self.blocks.at(now_us))
        if fields or has_blocks:
            self._tell_all(Change(fields, has_blocks=has_blocks))

    def _keep(self, field: str, subject: Subject | None) -> None:
        self._cache.keep(field, subject, self._now_us())

    def _tell_all(self, change: Change) -> None:
        for listener in self.listeners:
            try:
                listener(change)
            except Exception as error:  # noqa: BLE001 - the others must be told all the same
                self._defects.record(error, "a listener to changes of subjects failed")

    def _tell(self, error: StoreError) -> None:
        """Log why nothing new is known, once; a store that is away is told of by who watches it."""
        if str(error) != self._told and not self._registry.is_silent:
            self._told = str(error)
            _log.warning("subjects and blocks stay as they were last known: %s", error)
