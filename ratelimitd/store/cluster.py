"""A store of several nodes: one EVALSHA per partition touched, all of a node in one write.

A concurrent caller may see a charge between its making and its giving back: partitions.py tells
when. With limits of a request in one partition nobody sees anything in between.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from ratelimitd.decisions.keys import slot_of
from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.defects import DefectLog
from ratelimitd.errors import StoreError, StoreReplyLost
from ratelimitd.store.connection import STORE_TIMEOUT_S, Answers
from ratelimitd.store.exchange import Command, script_call
from ratelimitd.store.partitions import Part, PartAnswer, merge, split
from ratelimitd.store.port import OnReplies, all_or_raise, unreadable_reply
from ratelimitd.store.scripts import Script, Scripts
from ratelimitd.store.topology import ClusterClient
from ratelimitd.store.wire import (
    Charge,
    PackedPlan,
    from_reply,
    pack_plan,
    to_arguments,
    to_give_back_arguments,
)

_log = logging.getLogger(__name__)


class ClusterStore:
    """Decides plans on the nodes of `client`."""

    def __init__(
        self,
        client: ClusterClient,
        scripts: Scripts,
        *,
        on_unreadable: Callable[[int], None] | None = None,
        on_lost_debt: Callable[[int], None] | None = None,
        on_give_back: Callable[[int, int], None] | None = None,
    ) -> None:
        """`on_unreadable` is told how many counters held garbage and counted as absent.

        `on_lost_debt` is told how much was spent beyond the debt that limits remember,
        `on_give_back` how many charges were given back, and how many were not.
        """
        self._client = client
        self._scripts = scripts
        self._on_unreadable = on_unreadable
        self._on_lost_debt = on_lost_debt
        self._on_give_back = on_give_back
        self._reports = DefectLog(_log)
        self._giving_back: set[asyncio.Task[None]] = set()

    def send(self, plans: Sequence[PackedPlan], done: OnReplies) -> None:
        """Decide and charge `plans`; a dead node fails those that needed it, not the others."""
        parts = split(plans)

        def on_answers(raw: Answers) -> None:
            try:
                merged, give_back = merge(plans, parts, self._read_all(parts, raw))
            except Exception as error:  # noqa: BLE001 - whoever waits must be told
                self._reports.record(error, "the replies of the store cannot be joined")
                merged, give_back = [unreadable_reply()] * len(plans), {}
            if give_back:
                task = asyncio.create_task(self._give_back(give_back))
                self._giving_back.add(task)
                task.add_done_callback(self._giving_back.discard)
                task.add_done_callback(lambda _: done(merged))
            else:
                done(merged)

        self._client.send_by_slot(_commands(self._scripts.check, parts), on_answers)

    async def peek(self, plans: Sequence[Plan], *, timeout_s: float) -> list[Reply]:
        """Decide `plans` each as if it came alone now; nothing is charged."""
        packed = [pack_plan(plan) for plan in plans]
        parts = split(packed)
        commands = _commands(self._scripts.peek, parts)
        raw = await self._client.run_by_slot(commands, timeout_s=timeout_s)
        merged, _ = merge(packed, parts, self._read_all(parts, raw))
        return all_or_raise(merged)

    async def close(self) -> None:
        """Wait for what is being given back; STORE_TIMEOUT_S bounds it."""
        if self._giving_back:
            await asyncio.wait(self._giving_back)

    def _read_all(self, parts: Sequence[Part], raw: Answers) -> list[PartAnswer]:
        return [self._read(part, answer) for part, answer in zip(parts, raw, strict=True)]

    def _read(self, part: Part, raw: object) -> PartAnswer:
        if isinstance(raw, StoreError):
            return raw
        try:
            replies, unreadable, lost = from_reply(raw, part.plans)
        except Exception as error:  # noqa: BLE001 - the other partitions are answered all the same
            self._reports.record(error, "a reply of the store cannot be read")
            return unreadable_reply()
        if unreadable and self._on_unreadable is not None:
            self._on_unreadable(unreadable)
        if lost and self._on_lost_debt is not None:
            self._on_lost_debt(lost)
        return replies

    async def _give_back(self, charges: Mapping[bytes, list[Charge]]) -> None:
        """Send once what is to be given back; if that fails it stays spent for its window."""
        commands = [
            (slot_of(tag), script_call(self._scripts.give_back, *to_give_back_arguments(own)))
            for tag, own in charges.items()
        ]
        error: Exception | None = None
        try:
            answers = await self._client.run_by_slot(commands, timeout_s=STORE_TIMEOUT_S)
        except StoreError as unsent:
            answers = [unsent] * len(commands)
        except Exception as defect:  # noqa: BLE001 - a task that nobody awaits: it would be silent
            error, answers = defect, [StoreReplyLost(f"a {type(defect).__name__}")] * len(commands)
        lost = 0
        reason: object = ""
        for own, answer in zip(charges.values(), answers, strict=True):
            if isinstance(answer, StoreError):
                lost, reason = lost + len(own), answer
        if self._on_give_back is not None:
            self._on_give_back(sum(map(len, charges.values())) - lost, lost)
        if lost:
            self._reports.record(
                error,
                "%d charges of refused requests stay spent until their window ends: %s",
                lost,
                reason,
            )


def _commands(script: Script, parts: Sequence[Part]) -> list[tuple[int, Command]]:
    return [(slot_of(part.tag), script_call(script, *to_arguments(part.plans))) for part in parts]
