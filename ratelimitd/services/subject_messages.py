"""Messages of SubjectService to values and back; what is too large is named and refused."""

from collections.abc import Iterable, Sequence
from typing import Final

from ratelimitd._proto.ratelimitd.subject.v1 import subject_pb2
from ratelimitd.decisions.subject import (
    ALL_LIMITS,
    MAX_AMOUNT,
    MAX_NAME_CHARACTERS,
    MAX_OVERRIDES,
    MAX_REASON_CHARACTERS,
    MAX_TIER_CHARACTERS,
    AmountOverride,
    Block,
    Subject,
)
from ratelimitd.decisions.subject_entry import shown
from ratelimitd.errors import InvalidRequest
from ratelimitd.services.convert import RequestBounds
from ratelimitd.store.subject_record import MAX_RECORD_BYTES, to_record

US_PER_S: Final = 1_000_000
MAX_SECONDS: Final = 100 * 366 * 86_400
MAX_TEXT_BYTES: Final = RequestBounds().max_text_bytes
DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1_000
# What the script puts before a record.
_VERSION_BYTES: Final = len('{"version":,') + len(str(MAX_AMOUNT))


def from_entry(entry: subject_pb2.Entry, path: str, *, needs_value: bool) -> tuple[str, str]:
    """Return key and value."""
    if not entry.key:
        raise InvalidRequest(f"{path}.key: is empty; write key=value")
    if needs_value and not entry.value:
        raise InvalidRequest(f"{path}.value: is empty; a subject has a value")
    for name, text in (("key", entry.key), ("value", entry.value)):
        if len(text.encode()) > MAX_TEXT_BYTES:
            raise InvalidRequest(f"{path}.{name}: longer than {MAX_TEXT_BYTES} bytes of UTF-8")
    return entry.key, entry.value


def from_reason(text: str, *, is_needed: bool = True) -> str:
    """Return why something is done."""
    if is_needed and not text.strip():
        raise InvalidRequest("reason: is empty; say why, for whoever finds it later")
    return _bounded(text.strip(), "reason", MAX_REASON_CHARACTERS)


def from_tier(text: str, path: str = "tier") -> str:
    """Return the name of a tier, empty for none."""
    return _bounded(text, path, MAX_TIER_CHARACTERS)


def from_limit(text: str, path: str) -> str:
    """Return the name of a limit, or ALL_LIMITS."""
    if not text:
        raise InvalidRequest(f"{path}: is empty; name a limit, or {ALL_LIMITS} for all")
    return _bounded(text, path, MAX_NAME_CHARACTERS)


def from_amounts(
    amounts: Sequence[subject_pb2.Amount], path: str, reason: str, now_us: int
) -> list[AmountOverride]:
    """Return overrides that begin now."""
    if len(amounts) > MAX_OVERRIDES:
        raise InvalidRequest(f"{path}: {len(amounts)} sent, at most {MAX_OVERRIDES} allowed")
    found: dict[str, AmountOverride] = {}
    for index, one in enumerate(amounts):
        here = f"{path}[{index}]"
        limit = from_limit(one.limit, f"{here}.limit")
        if limit in found:
            raise InvalidRequest(f"{here}.limit: {limit!r} is there already")
        if one.amount > MAX_AMOUNT:
            raise InvalidRequest(f"{here}.amount: {one.amount} is more than {MAX_AMOUNT}")
        until_us = from_seconds(one.for_seconds, f"{here}.for_seconds", now_us)
        found[limit] = AmountOverride(limit, one.amount, until_us, reason)
    return list(found.values())


def from_seconds(seconds: int, path: str, now_us: int) -> int | None:
    """Return when something ends that begins now; None for never."""
    if seconds > MAX_SECONDS:
        raise InvalidRequest(f"{path}: {seconds} is more than 100 years; 0 is for ever")
    return now_us + seconds * US_PER_S if seconds else None


def from_page_size(size: int) -> int:
    """Return how many a page may have."""
    if size > MAX_PAGE:
        raise InvalidRequest(f"page_size: {size} is more than {MAX_PAGE}")
    return size or DEFAULT_PAGE


def check_size(subject: Subject, field: str) -> None:
    """Raise InvalidRequest for a record that is too large."""
    count = len(subject.overrides)
    if count > MAX_OVERRIDES:
        raise InvalidRequest(
            f"{shown(field)} would have {count} overrides, at most {MAX_OVERRIDES} are accepted;"
            " remove some"
        )
    size = len(to_record(subject)) + _VERSION_BYTES
    if size > MAX_RECORD_BYTES:
        raise InvalidRequest(
            f"the record of {shown(field)} would have {size} bytes, at most {MAX_RECORD_BYTES} are"
            " accepted; remove overrides, or shorten reasons"
        )


def to_message(field: str, subject: Subject) -> subject_pb2.Record:
    """Return a record as people may see it."""
    return subject_pb2.Record(
        entry=shown(field),
        tier=subject.tier,
        tier_until=_to_timestamp(subject.tier_until_us),
        overrides=[
            subject_pb2.Override(
                limit=one.limit,
                amount=one.amount,
                until=_to_timestamp(one.until_us),
                reason=one.reason,
            )
            for one in subject.overrides
        ],
        reason=subject.reason,
        version=subject.version,
    )


def to_blocked(blocks: Iterable[Block]) -> list[subject_pb2.BlockedEntry]:
    """Return blocks as people may see them."""
    return [
        subject_pb2.BlockedEntry(
            entry=shown(one.entry), until=_to_timestamp(one.until_us), reason=one.reason
        )
        for one in blocks
    ]


def _to_timestamp(time_us: int | None) -> dict[str, int] | None:
    """Return a time as its members: the message type of our own pool is made from them."""
    if time_us is None:
        return None
    return {"seconds": time_us // US_PER_S, "nanos": time_us % US_PER_S * 1_000}


def _bounded(text: str, path: str, most: int) -> str:
    if len(text) > most:
        raise InvalidRequest(f"{path}: {len(text)} characters, at most {most} are accepted")
    return text
