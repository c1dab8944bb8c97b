"""SubjectService's blocks: Block, Unblock and ListBlocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ratelimitd._proto.ratelimitd.subject.v1 import subject_pb2
from ratelimitd.decisions.subject import Block
from ratelimitd.errors import InvalidRequest, NoRoom, NotFound
from ratelimitd.services import subject_messages as messages
from ratelimitd.services.audit import Trail
from ratelimitd.services.context import CallContext
from ratelimitd.services.ratelimit import answer_within_s
from ratelimitd.services.registry_access import RegistryAccess
from ratelimitd.store.subject_replies import Status
from ratelimitd.store.subjects import MAX_BLOCKS

MAX_ENTRIES: Final = 100
_NEVER_US: Final = 2**63


@dataclass(frozen=True, slots=True)
class BlockService:
    """Reads and changes which entries are blocked."""

    access: RegistryAccess

    async def block(
        self, message: subject_pb2.BlockRequest, context: CallContext
    ) -> subject_pb2.BlockResponse:
        """Block entries, all or none. Raises InvalidRequest, NoRoom, StoreError."""
        reason = messages.from_reason(message.reason)
        now_us = self.access.now_us()
        names = self._names(message.domain, message.entries, needs_values=True)
        until_us = messages.from_seconds(message.for_seconds, "for_seconds", now_us)
        blocks = [Block(message.domain, name, until_us, reason) for name in names]
        written = await self.access.registry.block(blocks, timeout_s=answer_within_s(context))
        if written.status is Status.FULL:
            raise NoRoom(
                f"{written.count} entries are blocked, at most {MAX_BLOCKS} can be; unblock some"
            )
        trail = Trail(context, message.domain, reason)
        for name in names:
            trail.write("blocked", name, for_seconds=message.for_seconds)
        return subject_pb2.BlockResponse(blocks=messages.to_blocked(blocks))

    async def unblock(
        self, message: subject_pb2.UnblockRequest, context: CallContext
    ) -> subject_pb2.UnblockResponse:
        """End blocks. Raises InvalidRequest, NotFound, StoreError."""
        reason = messages.from_reason(message.reason, is_needed=False)
        names = self._names(message.domain, message.entries, needs_values=False)
        written = await self.access.registry.unblock(names, timeout_s=answer_within_s(context))
        if not written.count:
            raise NotFound("none of these entries is blocked")
        trail = Trail(context, message.domain, reason)
        for name in names:
            trail.write("unblocked", name)
        return subject_pb2.UnblockResponse(unblocked=written.count)

    async def list_blocks(
        self, message: subject_pb2.ListBlocksRequest, context: CallContext
    ) -> subject_pb2.ListBlocksResponse:
        """Return a page of a domain's blocks. Raises InvalidRequest, StoreError."""
        facts = self.access.facts(message.domain)
        size = messages.from_page_size(message.page_size)
        start = _from_token(message.page_token)
        now_us = self.access.now_us()
        found = await self.access.registry.blocks(timeout_s=answer_within_s(context))
        own = [one for one in found if one.domain == facts.domain.name and not _ended(one, now_us)]
        own.sort(key=_order)
        end = start + size
        return subject_pb2.ListBlocksResponse(
            blocks=messages.to_blocked(own[start:end]),
            next_page_token=str(end) if end < len(own) else "",
        )

    def _names(
        self, domain: str, entries: Sequence[subject_pb2.Entry], *, needs_values: bool
    ) -> list[str]:
        """Return the names of entries, each once."""
        facts = self.access.facts(domain)
        if not 0 < len(entries) <= MAX_ENTRIES:
            raise InvalidRequest(f"entries: {len(entries)} sent; 1 to {MAX_ENTRIES} are accepted")
        secret = self.access.hash_secret()
        names: dict[str, None] = {}
        for index, entry in enumerate(entries):
            key, value = messages.from_entry(entry, f"entries[{index}]", needs_value=needs_values)
            names[facts.field(key, value, secret)] = None
        return list(names)


def _ended(block: Block, now_us: int) -> bool:
    return block.until_us is not None and block.until_us <= now_us


def _order(block: Block) -> tuple[int, str]:
    return (_NEVER_US if block.until_us is None else block.until_us, block.entry)


def _from_token(token: str) -> int:
    """Return how many were on the pages before."""
    if not token:
        return 0
    is_number = token.isascii() and token.isdecimal() and len(token) <= len(str(MAX_BLOCKS))
    if not is_number:
        raise InvalidRequest("page_token: is none that a page ended with")
    return int(token)
