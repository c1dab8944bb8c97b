"""SubjectService's records: Set, Show, List, Delete and Import; services/block.py has the blocks.

Rules:
- Who calls is not known yet, so it answers on a port that others cannot reach, or not at all.
- A change is written whole or not at all, and only over what was read.
- A secret value becomes its fingerprint here: the registry, its answers and the log have no other.
"""

import base64
import binascii
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from ratelimitd._proto.ratelimitd.subject.v1 import subject_pb2
from ratelimitd.decisions.subject import Subject, at
from ratelimitd.decisions.subject_entry import names_of, shown
from ratelimitd.errors import Conflict, InvalidRequest, NoRoom, NotFound
from ratelimitd.services import subject_messages as messages
from ratelimitd.services.audit import Trail
from ratelimitd.services.context import CallContext
from ratelimitd.services.domain_facts import DomainFacts
from ratelimitd.services.ratelimit import answer_within_s
from ratelimitd.services.registry_access import RegistryAccess
from ratelimitd.store.subject_replies import Status, Written
from ratelimitd.store.subjects import MAX_SUBJECTS, Write

MAX_ROWS: Final = 1_000
# An import's request: as much as the transport reads.
MAX_IMPORT_BYTES: Final = 1024 * 1024
# How often a change is made again that somebody else's came before.
MAX_TRIES: Final = 4
# Problems that an error names; `validate_only` returns all of them.
MAX_NAMED_PROBLEMS: Final = 20


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of an import, understood."""

    records: dict[str, Subject] = field(default_factory=dict)
    problems: list[subject_pb2.ImportResponse.Problem] = field(default_factory=list)
    warnings: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SubjectService:
    """Reads and changes the records of subjects."""

    access: RegistryAccess

    async def set_(
        self, message: subject_pb2.SetRequest, context: CallContext
    ) -> subject_pb2.SetResponse:
        """Change or make a record. Raises InvalidRequest, Conflict, NoRoom, StoreError."""
        name, facts = self._locate(message.domain, message.entry)
        now_us = self.access.now_us()
        reason = messages.from_reason(message.reason)
        written: Written | None = None
        for tries in range(MAX_TRIES):
            (found,) = await self.access.registry.get([name], timeout_s=answer_within_s(context))
            version = found.version if found is not None else 0
            if message.HasField("version") and message.version != version:
                raise _changed(name, version)
            old = at(found, now_us) if found is not None else Subject()
            new = _merged(old, message, facts, reason, now_us)
            messages.check_size(new, name)
            # One that cannot be read has a version, perhaps, that nobody can tell.
            is_any = found is None and tries == MAX_TRIES - 1 and not message.HasField("version")
            written = await self.access.registry.write(
                [Write(name, new, None if is_any else version)], timeout_s=answer_within_s(context)
            )
            if written.status is not Status.CONFLICT:
                break
        assert written is not None
        _check_written(written, [name])
        new = replace(new, version=written.version)
        Trail(context, message.domain, reason).write_record("subject set", name, new)
        warning = facts.tier_warning(message.tier)
        return subject_pb2.SetResponse(
            record=messages.to_message(name, new), warnings=[warning] if warning else []
        )

    async def show(
        self, message: subject_pb2.ShowRequest, context: CallContext
    ) -> subject_pb2.ShowResponse:
        """Return a record. Raises InvalidRequest, NotFound, StoreError."""
        name, _ = self._locate(message.domain, message.entry)
        (found,) = await self.access.registry.get([name], timeout_s=answer_within_s(context))
        if found is None:
            raise _not_there(name)
        record = messages.to_message(name, at(found, self.access.now_us()))
        return subject_pb2.ShowResponse(record=record)

    async def list_(
        self, message: subject_pb2.ListRequest, context: CallContext
    ) -> subject_pb2.ListResponse:
        """Return a page of a domain's records. Raises InvalidRequest, StoreError."""
        facts = self.access.facts(message.domain)
        name = facts.domain.name
        page = await self.access.registry.page(
            name,
            _from_token(message.page_token, name),
            messages.from_page_size(message.page_size),
            timeout_s=answer_within_s(context),
        )
        now_us = self.access.now_us()
        return subject_pb2.ListResponse(
            records=[messages.to_message(one, at(found, now_us)) for one, found in page.records],
            next_page_token=base64.urlsafe_b64encode(page.next.encode()).decode(),
        )

    async def delete(
        self, message: subject_pb2.DeleteRequest, context: CallContext
    ) -> subject_pb2.DeleteResponse:
        """Delete a record. Raises InvalidRequest, NotFound, StoreError."""
        name, _ = self._locate(message.domain, message.entry)
        reason = messages.from_reason(message.reason, is_needed=False)
        written = await self.access.registry.write(
            [Write(name, None)], timeout_s=answer_within_s(context)
        )
        if not written.count:
            raise _not_there(name)
        Trail(context, message.domain, reason).write("subject deleted", name)
        return subject_pb2.DeleteResponse()

    async def import_(
        self, message: subject_pb2.ImportRequest, context: CallContext
    ) -> subject_pb2.ImportResponse:
        """Replace records, all or none. Raises InvalidRequest, NoRoom, StoreError."""
        facts = self.access.facts(message.domain)
        key = facts.subject_key(message.key)
        rows = self._read_rows(message.rows, facts, key)
        answer = subject_pb2.ImportResponse(warnings=rows.warnings)
        if message.validate_only:
            answer.problems.extend(rows.problems)
            return answer
        if rows.problems:
            raise InvalidRequest(_summary(rows.problems))
        writes = [Write(name, subject) for name, subject in rows.records.items()]
        written = await self.access.registry.write(writes, timeout_s=answer_within_s(context))
        _check_written(written, list(rows.records))
        for name, subject in rows.records.items():
            trail = Trail(context, message.domain, subject.reason)
            trail.write_record("subject imported", name, subject)
        answer.written = written.count
        return answer

    def _locate(self, domain: str, entry: subject_pb2.Entry) -> tuple[str, DomainFacts]:
        """Return the name of a subject in the registry; InvalidRequest says what to add."""
        facts = self.access.facts(domain)
        key, value = messages.from_entry(entry, "entry", needs_value=True)
        facts.subject_key(key)
        return facts.field(key, value, self.access.hash_secret()), facts

    def _read_rows(
        self, rows: Sequence[subject_pb2.ImportRequest.Row], facts: DomainFacts, key: str
    ) -> _Rows:
        """Understand all rows, and note what is wrong with each."""
        if not 0 < len(rows) <= MAX_ROWS:
            raise InvalidRequest(f"rows: {len(rows)} sent; 1 to {MAX_ROWS} are accepted")
        secret, now_us = self.access.hash_secret(), self.access.now_us()
        read = _Rows()
        for index, row in enumerate(rows):
            try:
                name = _name_of_row(row.value, facts, key, secret)
                _check_new(name, read.records)
                read.records[name] = subject = _from_row(row, facts, now_us)
                messages.check_size(subject, name)
            except InvalidRequest as error:
                problem = subject_pb2.ImportResponse.Problem(row=index, message=str(error))
                read.problems.append(problem)
            if warning := facts.tier_warning(row.tier):
                read.warnings[warning] = None
        return read


def _merged(
    old: Subject,
    message: subject_pb2.SetRequest,
    facts: DomainFacts,
    reason: str,
    now_us: int,
) -> Subject:
    """Return `old` with what a request says."""
    new = replace(old, reason=reason)
    if message.HasField("tier"):
        tier = messages.from_tier(message.tier)
        until_us = messages.from_seconds(message.tier_for_seconds, "tier_for_seconds", now_us)
        new = replace(new, tier=tier, tier_until_us=until_us if tier else None)
    elif message.tier_for_seconds:
        raise InvalidRequest("tier_for_seconds: there is no tier beside it; send tier, too")
    added = messages.from_amounts(message.overrides, "overrides", reason, now_us)
    for index, one in enumerate(added):
        facts.check_limit(one.limit, f"overrides[{index}].limit")
    replaced = {one.limit for one in added} | set(message.removed_limits)
    kept = [one for one in old.overrides if one.limit not in replaced]
    return replace(new, overrides=(*kept, *added))


def _name_of_row(value: str, facts: DomainFacts, key: str, hash_secret: bytes) -> str:
    entry = subject_pb2.Entry(key=key, value=value)
    messages.from_entry(entry, "entry", needs_value=True)
    return facts.field(key, value, hash_secret)


def _check_new(name: str, records: Container[str]) -> None:
    if name in records:
        raise InvalidRequest(f"entry.value: {shown(name)} is in a row before")


def _from_row(row: subject_pb2.ImportRequest.Row, facts: DomainFacts, now_us: int) -> Subject:
    """Return the record that a row says."""
    reason = messages.from_reason(row.reason)
    overrides = messages.from_amounts(row.overrides, "overrides", reason, now_us)
    for one in overrides:
        facts.check_limit(one.limit, "overrides")
    return Subject(
        tier=messages.from_tier(row.tier),
        tier_until_us=messages.from_seconds(row.tier_for_seconds, "tier_for_seconds", now_us)
        if row.tier
        else None,
        overrides=tuple(overrides),
        reason=reason,
    )


def _check_written(written: Written, names: Sequence[str]) -> None:
    match written.status:
        case Status.OK:
            pass
        case Status.CONFLICT:
            raise _changed(names[written.count], written.version)
        case Status.FULL:
            raise NoRoom(
                f"the registry has {written.count} subjects, at most {MAX_SUBJECTS} are accepted;"
                " delete some"
            )


def _changed(name: str, version: int) -> Conflict:
    now = f"its version is {version} now" if version else "it is not there now"
    return Conflict(f"{shown(name)} was changed by somebody else: {now}; look, and set it again")


def _not_there(name: str) -> NotFound:
    return NotFound(f"{shown(name)} has no record")


def _summary(problems: Sequence[subject_pb2.ImportResponse.Problem]) -> str:
    lines = [f"rows[{one.row}].{one.message}" for one in problems[:MAX_NAMED_PROBLEMS]]
    if len(problems) > MAX_NAMED_PROBLEMS:
        lines.append(f"and {len(problems) - MAX_NAMED_PROBLEMS} more")
    return "; ".join(lines)


def _from_token(token: str, domain: str) -> str:
    """Return the name behind which a page begins."""
    if not token:
        return ""
    try:
        name = base64.urlsafe_b64decode(token).decode()
    except (binascii.Error, ValueError):
        name = ""
    if not name.startswith(names_of(domain)[0]):
        raise InvalidRequest("page_token: is none that a page of this domain ended with")
    return name
