"""A store of one server: a list of plans is one EVALSHA."""

from collections.abc import Callable, Sequence

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.errors import StoreError, StoreUnavailable
from ratelimitd.store.connection import NodeClient
from ratelimitd.store.scripts import Script, Scripts
from ratelimitd.store.wire import from_reply, to_arguments

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
    ) -> None:
        """`on_unreadable` is told how many counters held garbage and counted as absent."""
        self._client = client
        self._scripts = scripts
        self._on_unreadable = on_unreadable

    async def check(self, plans: Sequence[Plan], *, timeout_s: float) -> list[Reply]:
        """Decide and charge `plans` in order, as one script call."""
        return await self._run(self._scripts.check, plans, timeout_s)

    async def peek(self, plans: Sequence[Plan], *, timeout_s: float) -> list[Reply]:
        """Decide `plans` each as if it came alone now, as one script call."""
        return await self._run(self._scripts.peek, plans, timeout_s)

    async def check_each(
        self, plans: Sequence[Plan], *, timeout_s: float
    ) -> Sequence[Reply | StoreError]:
        """Decide and charge `plans`; on one server they share their fate."""
        return await self.check(plans, timeout_s=timeout_s)

    async def close(self) -> None:
        """Do nothing: every answer is the end of its call."""

    async def _run(self, script: Script, plans: Sequence[Plan], timeout_s: float) -> list[Reply]:
        if not plans:
            return []
        keys, argv = to_arguments(plans)
        if len(keys) > MAX_KEYS:
            raise StoreUnavailable(f"store: {len(keys)} counters in one list, more than {MAX_KEYS}")
        raw = await self._client.run_script(script, keys, argv, timeout_s=timeout_s)
        replies, unreadable = from_reply(raw, plans)
        if unreadable and self._on_unreadable is not None:
            self._on_unreadable(unreadable)
        return replies
