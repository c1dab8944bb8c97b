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
from ratelimitd.store.connection import STORE_TIMEOUT_S
from ratelimitd.store.exchange import script_call
from ratelimitd.store.partitions import Part, PartAnswer, merge, split
from ratelimitd.store.scripts import Script, Scripts
from ratelimitd.store.topology import ClusterClient
from ratelimitd.store.wire import Charge, from_reply, to_arguments, to_give_back_arguments

_log = logging.getLogger(__name__)


class ClusterStore:
    """Decides plans on the nodes of `client`."""

    def __init__(
        self,
        client: ClusterClient,
        scripts: Scripts,
        *,
        on_unreadable: Callable[[int], None] | None = None,
        on_give_back: Callable[[int, int], None] | None = None,
    ) -> None:
        """`on_unreadable` is told how many counters held garbage and counted as absent.

        `on_give_back` is told how many charges were given back, and how many were not.
        """
        self._client = client
        self._scripts = scripts
        self._on_unreadable = on_unreadable
        self._on_give_back = on_give_back
        self._reports = DefectLog(_log)
        self._giving_back: set[asyncio.Task[None]] = set()

    async def check(self, plans: Sequence[Plan], *, timeout_s: float) -> list[Reply]:
        """Decide and charge `plans` in order; the first error of any of them is raised."""
        return _all_or_raise(await self.check_each(plans, timeout_s=timeout_s))

    async def peek(self, plans: Sequence[Plan], *, timeout_s: float) -> list[Reply]:
        """Decide `plans` each as if it came alone now; nothing is charged."""
        merged, _ = await self._run(self._scripts.peek, plans, timeout_s)
        return _all_or_raise(merged)

    async def check_each(
        self, plans: Sequence[Plan], *, timeout_s: float
    ) -> Sequence[Reply | StoreError]:
        """Decide and charge `plans`; a dead node fails those that needed it, not the others."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        merged, give_back = await self._run(self._scripts.check, plans, timeout_s)
        if give_back:
            # On its own task: a caller in a hurry must not stop it half way.
            task = asyncio.create_task(self._give_back(give_back))
            self._giving_back.add(task)
            task.add_done_callback(self._giving_back.discard)
            left_s = deadline - asyncio.get_running_loop().time()
            await asyncio.wait({task}, timeout=max(0.0, left_s))
        return merged

    async def close(self) -> None:
        """Wait for what is being given back; STORE_TIMEOUT_S bounds it."""
        if self._giving_back:
            await asyncio.wait(self._giving_back)

    async def _run(
        self, script: Script, plans: Sequence[Plan], timeout_s: float
    ) -> tuple[list[Reply | StoreError], Mapping[bytes, list[Charge]]]:
        if not plans:
            return [], {}
        parts = split(plans)
        commands = [
            (slot_of(part.tag), script_call(script, *to_arguments(part.plans))) for part in parts
        ]
        raw = await self._client.run_by_slot(commands, timeout_s=timeout_s)
        return merge(plans, parts, [self._read(*pair) for pair in zip(parts, raw, strict=True)])

    def _read(self, part: Part, raw: object) -> PartAnswer:
        if isinstance(raw, StoreError):
            return raw
        assert isinstance(raw, list), "a script answers a list"
        replies, unreadable = from_reply(raw, part.plans)
        if unreadable and self._on_unreadable is not None:
            self._on_unreadable(unreadable)
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


def _all_or_raise(answers: Sequence[Reply | StoreError]) -> list[Reply]:
    replies: list[Reply] = []
    for answer in answers:
        if isinstance(answer, StoreError):
            raise answer
        replies.append(answer)
    return replies
