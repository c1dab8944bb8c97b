"""Subjects and blocks as the JSON that the store keeps.

    {"version":12,"tier":"pro","tier_until_us":...,"overrides":[{"limit":"*","amount":0}],"reason":"..."}
    {"until_us":...,"reason":"..."}

Rules:
- What is unset is left out. The version is put in by the script that writes a record.
- A text that nobody of us wrote is None: a record that cannot be read says nothing.
- Unknown members are ignored, so that older daemons read what newer ones wrote.
"""

import json
from typing import Final

from ratelimitd.decisions.subject import MAX_AMOUNT, AmountOverride, Block, Subject
from ratelimitd.decisions.subject_entry import take_apart

MAX_RECORD_BYTES: Final = 4096


def to_record(subject: Subject) -> bytes:
    """Return the record of `subject` without its first brace and its version, for the script."""
    body: dict[str, object] = {"tier": subject.tier}
    if subject.tier_until_us is not None:
        body["tier_until_us"] = subject.tier_until_us
    if subject.overrides:
        body["overrides"] = [_to_override(one) for one in subject.overrides]
    if subject.reason:
        body["reason"] = subject.reason
    return _dump(body)[1:]


def from_record(record: bytes) -> Subject | None:
    """Return the subject of a record, or None if it cannot be read."""
    try:
        body = _load(record)
        return Subject(
            tier=_text(body, "tier"),
            tier_until_us=_time(body, "tier_until_us"),
            overrides=tuple([_from_override(one) for one in _list(body, "overrides")]),
            reason=_text(body, "reason"),
            version=_number(body["version"]),
        )
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def to_block(block: Block) -> bytes:
    """Return what is stored of `block`; domain and entry are the name that it is stored under."""
    body: dict[str, object] = {}
    if block.until_us is not None:
        body["until_us"] = block.until_us
    if block.reason:
        body["reason"] = block.reason
    return _dump(body)


def from_block(field: bytes, stored: bytes) -> Block | None:
    """Return the block that is stored under `field`, or None if it cannot be read."""
    try:
        body, entry = _load(stored), field.decode()
        until_us, reason = _time(body, "until_us"), _text(body, "reason")
    except (TypeError, ValueError, RecursionError):
        return None
    name = take_apart(entry)
    return None if name is None else Block(name.domain, entry, until_us, reason)


def _to_override(one: AmountOverride) -> dict[str, object]:
    body: dict[str, object] = {"limit": one.limit, "amount": one.amount}
    if one.until_us is not None:
        body["until_us"] = one.until_us
    if one.reason:
        body["reason"] = one.reason
    return body


def _from_override(body: object) -> AmountOverride:
    if not isinstance(body, dict):
        raise TypeError("an override is an object")
    limit = _text(body, "limit")
    if not limit:
        raise ValueError("an override names its limit")
    return AmountOverride(
        limit=limit,
        amount=_number(body["amount"]),
        until_us=_time(body, "until_us"),
        reason=_text(body, "reason"),
    )


def _dump(body: dict[str, object]) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def _load(text: bytes) -> dict[str, object]:
    body = json.loads(text)
    if not isinstance(body, dict):
        raise TypeError("a record is an object")
    return body


def _list(body: dict[str, object], name: str) -> list[object]:
    value = body.get(name, [])
    if not isinstance(value, list):
        raise TypeError(name)
    return value


def _text(body: dict[str, object], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _time(body: dict[str, object], name: str) -> int | None:
    return None if body.get(name) is None else _number(body[name])


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_AMOUNT:
        raise ValueError("a number is an integer from 0 to 2^53 - 1")
    return value
