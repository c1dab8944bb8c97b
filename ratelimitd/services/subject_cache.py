"""Records of subjects that were read, also that there is none; what is used stays.

Rules:
- Two generations: what is asked for again moves to the young one; when that is full the old one
  is dropped. So it costs a look-up.
- UNKNOWN is nothing that was read; None is that there is no record.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Final, Literal

from ratelimitd.decisions.subject import Subject, at

# A record takes some hundred bytes, so that this is some 20 MB; at most 200 with all at 4 KiB.
MAX_RECORDS: Final = 50_000


class Unknown(Enum):
    """Says that a record must be read first."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN
Cached = Subject | None | Literal[Unknown.UNKNOWN]


class SubjectCache:
    """Maps the names of entries to what is in force for them."""

    def __init__(self, max_records: int = MAX_RECORDS) -> None:
        """Hold `max_records`."""
        # Each generation has half of the room.
        self._room = max(1, max_records // 2)
        self.clear()

    def __len__(self) -> int:
        """Return how many are held."""
        return len(self._young) + len(self._old)

    def clear(self) -> None:
        """Forget everything."""
        self._young: dict[str, Subject | None] = {}
        self._old: dict[str, Subject | None] = {}
        # When a part of a record expires; also of records that were dropped since.
        self._changes_us: dict[str, int] = {}
        self._next_change_us: int | None = None

    def get(self, field: str) -> Cached:
        """Return what is in force for `field`, as of the last look at the clock."""
        found: Cached = self._young.get(field, UNKNOWN)
        if found is UNKNOWN and self._old:
            found = self._old.pop(field, UNKNOWN)
            if found is not UNKNOWN:
                self._put(field, found)
        return found

    def keep(self, field: str, subject: Subject | None, now_us: int) -> None:
        """Hold what was read, without what has expired."""
        self._old.pop(field, None)
        effective = None if subject is None else at(subject, now_us)
        self._put(field, effective)
        self._note(field, effective)

    def drop(self, fields: Iterable[str]) -> frozenset[str]:
        """Forget `fields`; returns which of them were held."""
        return frozenset(
            field
            for field in fields
            if self._young.pop(field, UNKNOWN) is not UNKNOWN
            or self._old.pop(field, UNKNOWN) is not UNKNOWN
        )

    def expire(self, now_us: int) -> frozenset[str]:
        """Take out of records what has expired; returns which of them changed."""
        if self._next_change_us is None or now_us < self._next_change_us:
            return frozenset()
        due = [field for field, at_us in self._changes_us.items() if at_us <= now_us]
        changed = set()
        for field in due:
            del self._changes_us[field]
            for generation in (self._young, self._old):
                held = generation.get(field)
                if held is not None:
                    generation[field] = effective = at(held, now_us)
                    self._note(field, effective)
                    if effective is not held:
                        changed.add(field)
        self._next_change_us = min(self._changes_us.values(), default=None)
        return frozenset(changed)

    def _put(self, field: str, subject: Subject | None) -> None:
        if len(self._young) >= self._room:
            self._old, self._young = self._young, {}
        self._young[field] = subject

    def _note(self, field: str, subject: Subject | None) -> None:
        """Remember when a record changes by itself."""
        next_us = None if subject is None else subject.next_change_us
        if next_us is None:
            self._changes_us.pop(field, None)
            return
        if len(self._changes_us) >= 4 * self._room:
            self._changes_us = {
                name: at_us for name, at_us in self._changes_us.items() if self._holds(name)
            }
        self._changes_us[field] = next_us
        if self._next_change_us is None or next_us < self._next_change_us:
            self._next_change_us = next_us

    def _holds(self, field: str) -> bool:
        return field in self._young or field in self._old
