"""The real scripts on a real server, with time passed in and the keys' lives looked at."""

from collections.abc import Sequence

import redis

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.store import wire
from ratelimitd.store.scripts import Script, load_scripts

SCRIPTS = load_scripts()


class ScriptedStore:
    """Runs check and peek at a given time.

    Each call is one MULTI with PTTL and PERSIST behind the script: expiry follows the server's
    own clock, which must not run into a test whose time is passed in.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.unreadable = 0
        self.lost = 0
        self.ttl_ms: dict[bytes, int] = {}
        for script in (SCRIPTS.check, SCRIPTS.peek, SCRIPTS.give_back):
            assert client.script_load(script.text) == script.sha

    def check(self, plans: Sequence[Plan], now_us: int | None) -> list[Reply]:
        return self._run(SCRIPTS.check, plans, now_us)

    def peek(self, plans: Sequence[Plan], now_us: int | None) -> list[Reply]:
        return self._run(SCRIPTS.peek, plans, now_us)

    def give_back(self, charges: Sequence[wire.Charge], now_us: int) -> int:
        keys, arguments = wire.to_give_back_arguments(charges, now_us)
        sha = SCRIPTS.give_back.sha
        with self.client.pipeline(transaction=True) as pipe:
            pipe.evalsha(sha, len(keys), *keys, *arguments)
            for key in keys:
                pipe.persist(key)
            given: int = pipe.execute()[0]
        return given

    def _run(self, script: Script, plans: Sequence[Plan], now_us: int | None) -> list[Reply]:
        packed = [wire.pack_plan(plan) for plan in plans]
        keys, arguments = wire.to_arguments(packed, now_us)
        with self.client.pipeline(transaction=True) as pipe:
            pipe.evalsha(script.sha, len(keys), *keys, *arguments)
            for key in keys:
                pipe.pttl(key)
                pipe.persist(key)
            raw, *lives = pipe.execute()
        # Only a key that this very call wrote has a time to live: earlier ones were persisted.
        self.ttl_ms = {
            key: ttl for key, ttl in zip(keys, lives[::2], strict=True) if ttl not in (-1, -2)
        }
        replies, self.unreadable, self.lost = wire.from_reply(raw, packed)
        return replies
