"""A store of one server: a list of plans is one EVALSHA."""

import logging
from collections.abc import Callable, Sequence

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.defects import DefectLog
from ratelimitd.errors import StoreError, StoreUnavailable
from ratelimitd.store.connection import Answers, NodeClient
from ratelimitd.store.exchange import script_call
from ratelimitd.store.port import Answer, OnReplies, unreadable_reply
from ratelimitd.store.scripts import Scripts
from ratelimitd.store.wire import PackedPlan, from_reply, pack_plan, to_arguments

_log = logging.getLogger("ratelimitd.store")

# Lua's unpack fails near 8,000 values; a list of plans never needs to come near it.
MAX_KEYS = 1024


class SingleStore:
    """Decides plans on the server of `client`."""

    def __init__(
        self,
        client: NodeClient,
        scripts: Scripts,
        *,
        on_unreadable: Callable[[int], None] | None = None,
        on_lost_debt: Callable[[int], None] | None = None,
    ) -> None:
        """`on_unreadable` is told how many counters held garbage and counted as absent.

        `on_lost_debt` is told how much was spent beyond the debt that limits remember.
        """
        self._client = client
        self._scripts = scripts
        self._on_unreadable = on_unreadable
        self._on_lost_debt = on_lost_debt
        self._defects = DefectLog(_log)

    def send(self, plans: Sequence[PackedPlan], done: OnReplies) -> None:
        """Decide and charge `plans` in order, as one script call; they share their fate."""
        keys, argv = to_arguments(plans)
        if len(keys) > MAX_KEYS:
            done([_too_many(keys)] * len(plans))
            return

        def on_answers(answers: Answers) -> None:
            (raw,) = answers
            replies: Sequence[Answer]
            if isinstance(raw, StoreError):
                replies = [raw] * len(plans)
            else:
                try:
                    replies = self._read(raw, plans)
                except Exception as error:  # noqa: BLE001 - whoever waits must be told
                    self._defects.record(error, "a reply of the store cannot be read")
                    replies = [unreadable_reply()] * len(plans)
            done(replies)

        self._client.send([script_call(self._scripts.check, keys, argv)], on_answers)

    async def peek(self, plans: Sequence[Plan], *, timeout_s: float) -> list[Reply]:
        """Decide `plans` each as if it came alone now, as one script call."""
        packed = [pack_plan(plan) for plan in plans]
        keys, argv = to_arguments(packed)
        if len(keys) > MAX_KEYS:
            raise _too_many(keys)
        raw = await self._client.run_script(self._scripts.peek, keys, argv, timeout_s=timeout_s)
        return self._read(raw, packed)

    async def close(self) -> None:
        """Do nothing: every answer is the end of its call."""

    def _read(self, raw: object, plans: Sequence[PackedPlan]) -> list[Reply]:
        replies, unreadable, lost = from_reply(raw, plans)
        if unreadable and self._on_unreadable is not None:
            self._on_unreadable(unreadable)
        if lost and self._on_lost_debt is not None:
            self._on_lost_debt(lost)
        return replies


def _too_many(keys: Sequence[bytes]) -> StoreUnavailable:
    return StoreUnavailable(f"store: {len(keys)} counters in one list, more than {MAX_KEYS}")
