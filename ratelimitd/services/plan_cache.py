"""Plans by the bytes of their requests: what a request means depends on the policy alone.

Rules:
- A plan is kept at its second sight, so that values which come once do not push out the rest; one
  whose subject nobody knows yet is not, as it will be asked for.
- Two generations: what is asked for again moves to the young one; when that is full the old one
  is dropped. So it costs a look-up, and what is used stays.
- Bounded by an estimate of bytes that errs upwards. Large requests are not kept.
- Another policy or another hash secret is another cache.
"""

from collections.abc import Callable

from ratelimitd.services.ready_plan import ReadyPlan
from ratelimitd.services.sights import Sights

MAX_BYTES = 8 * 1024 * 1024
MAX_REQUEST_BYTES = 1024
# Measured with tracemalloc, and rounded up: what a plan takes with its request's bytes and its
# place in the table, and what a counter's key adds.
PLAN_BYTES = 192
KEY_BYTES = 160
# What a whole plan takes with an outline of its own, and for each of its checks.
WHOLE_PLAN_BYTES = 2_048
WHOLE_KEY_BYTES = 1_024
# More than fit into the cache, or little is ever seen twice.
MAX_SEEN = 65_536


class PlanCache:
    """Maps request bytes to plans that `make` returns for them."""

    def __init__(self, make: Callable[[bytes], ReadyPlan], max_bytes: int = MAX_BYTES) -> None:
        """Hold about `max_bytes`."""
        self._make = make
        # Each generation has half of the room.
        self._room = max_bytes // 2
        self.hits = 0
        self.misses = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._young: dict[bytes, ReadyPlan] = {}
        self._old: dict[bytes, ReadyPlan] = {}
        self._used = 0
        self._seen = Sights(MAX_SEEN)

    def __len__(self) -> int:
        """Return how many plans are held."""
        return len(self._young) + len(self._old)

    def get(self, body: bytes) -> ReadyPlan:
        """Return the plan of a request; raises what `make` raises, which is never kept."""
        plan = self._young.get(body)
        if plan is not None:
            self.hits += 1
            return plan
        plan = self._old.pop(body, None)
        if plan is not None:
            self.hits += 1
            self._keep(body, plan)
            return plan
        self.misses += 1
        plan = self._make(body)
        if len(body) <= MAX_REQUEST_BYTES and not plan.missing and self._seen.is_second(hash(body)):
            self._keep(body, plan)
        return plan

    def renew(self, body: bytes) -> ReadyPlan:
        """Make a plan anew whose subject is another one now, and keep it if it was kept."""
        plan = self._make(body)
        if body in self._young:
            if plan.missing:
                del self._young[body]
            else:
                self._young[body] = plan
        return plan

    def _keep(self, body: bytes, plan: ReadyPlan) -> None:
        cost = PLAN_BYTES + KEY_BYTES * len(plan.keys) + len(body)
        if plan.whole is not None:
            cost += WHOLE_PLAN_BYTES + WHOLE_KEY_BYTES * len(plan.keys)
        if self._used + cost > self._room:
            self._old, self._young, self._used = self._young, {}, 0
        self._young[body] = plan
        self._used += cost
