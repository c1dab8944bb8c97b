"""Encoded requests to ready plans, under one policy and one hash secret.

Rules:
- A request of the usual kind, whose descriptors bring no limit and no cost of their own, takes a
  path through the policy: keys, rules, ways. A path is learned at its second sight, by `make_plan`;
  from then on only counters, and a cost that is new, are worked out.
- A path on which metrics show values, or an entry matches nothing, has no common outline.
- Bounded: paths of MAX_PATH_ENTRIES entries, MAX_ENTRIES of all paths together, MAX_WHOLE whole
  plans of requests that have an outline.
"""

from array import array
from typing import NamedTuple

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Plan
from ratelimitd.decisions.planning import MAX_COST, make_plan
from ratelimitd.decisions.recipe import Recipe, to_recipe
from ratelimitd.policy.match import to_part, walk
from ratelimitd.policy.model import Domain, Policy
from ratelimitd.services.convert import RequestBounds, from_rls_request
from ratelimitd.services.parse import parse_request
from ratelimitd.services.ready_plan import Outline, ReadyPlan

# A gateway's request has a few entries. What a path takes is about a KiB for each.
MAX_PATH_ENTRIES = 16
MAX_ENTRIES = 4_096
# A longer key is matched by a pattern, and may be another one each time.
MAX_KEY = 256
# Costs of a path whose outlines are kept: most have one, and some traffic has another each time.
MAX_COSTS = 8
# Whole plans are asked for by refusals, and the same callers are refused again and again.
MAX_WHOLE = 512
MAX_WHOLE_CHECKS = 2_048
MAX_SIGHTS = 4_096
_SIGHT = MAX_SIGHTS - 1

_Entries = list[tuple[str, str]]


class _Known(NamedTuple):
    """The outlines of a path by their cost, and a recipe for each check: which descriptor, how."""

    outlines: dict[int, Outline]
    recipes: tuple[tuple[int, Recipe], ...]


class Planner:
    """Plans requests under `policy`; another policy or secret is another planner."""

    def __init__(
        self, policy: Policy, options: DecisionOptions, hash_secret: bytes, bounds: RequestBounds
    ) -> None:
        """Know no path yet."""
        self.policy = policy
        self.hash_secret = hash_secret
        self._options = options
        self._bounds = bounds
        # A text of so many characters is within the bound whatever they are.
        self._short = bounds.max_text_bytes // 4
        self._known: dict[tuple[object, ...], _Known] = {}
        self._known_entries = 0
        self._sights = array("q", bytes(8 * MAX_SIGHTS))
        self._whole: dict[bytes, Plan] = {}
        self._whole_checks = 0

    def plan(self, body: bytes) -> ReadyPlan:
        """Return the plan of an encoded request. Raises InvalidRequest."""
        message = parse_request(rls_pb2.RateLimitRequest, body)
        domain = self.policy.domains.get(message.domain)
        found = None if domain is None else self._follow(domain, message)
        if domain is None or found is None:
            return self._plan_alone(message, body)
        path, entries = found
        known = self._known.get(path)
        if known is None:
            if not self._is_second_sight(hash(path)):
                return self._plan_alone(message, body)
            known = self._learn(domain, path, entries, self._make(message))
        cost = min(max(1, message.hits_addend), MAX_COST)
        outline = known.outlines.get(cost)
        if outline is None:
            outline = next(iter(known.outlines.values())).at_cost(cost)
            if len(known.outlines) < MAX_COSTS:
                known.outlines[cost] = outline
        keys = tuple([recipe.key(entries[index]) for index, recipe in known.recipes])
        return ReadyPlan(outline, outline.shape, keys, body, None, self)

    def whole_plan(self, body: bytes) -> Plan:
        """Return the plan of an encoded request that was planned before."""
        plan = self._whole.get(body)
        if plan is None:
            plan = self._make(parse_request(rls_pb2.RateLimitRequest, body))
            checks = len(plan.checks)
            if len(self._whole) >= MAX_WHOLE or self._whole_checks + checks > MAX_WHOLE_CHECKS:
                self._whole.clear()
                self._whole_checks = 0
            self._whole[body] = plan
            self._whole_checks += checks
        return plan

    def _plan_alone(self, message: rls_pb2.RateLimitRequest, body: bytes) -> ReadyPlan:
        """Plan a request that shares its outline with no other."""
        plan = self._make(message)
        outline = Outline(plan, self._options)
        keys = tuple([check.key for check in plan.checks])
        return ReadyPlan(outline, outline.shape, keys, body, plan, self)

    def _make(self, message: rls_pb2.RateLimitRequest) -> Plan:
        request = from_rls_request(message, self._bounds)
        return make_plan(self.policy, request, self._options, self.hash_secret)

    def _follow(
        self, domain: Domain, message: rls_pb2.RateLimitRequest
    ) -> tuple[tuple[object, ...], list[_Entries]] | None:
        """Return the path of a usual request and its entries, or None for any other."""
        path: list[object] = [domain.name]
        every: list[_Entries] = []
        short = self._short
        if len(message.descriptors) > MAX_PATH_ENTRIES:
            return None
        count = 0
        for descriptor in message.descriptors:
            if (
                descriptor.is_negative_hits
                or descriptor.HasField("limit")
                or descriptor.HasField("hits_addend")
            ):
                return None
            entries = [(entry.key, entry.value) for entry in descriptor.entries]
            count += len(entries)
            steps = walk(domain, entries)
            if (
                not steps
                or len(steps) < len(entries)
                or steps[-1][0].needs_metric_walk
                or count > MAX_PATH_ENTRIES
            ):
                return None
            for (key, value), (node, how) in zip(entries, steps, strict=True):
                if len(value) > short or len(key) > MAX_KEY:
                    return None
                path += (key, id(node), how)
            path.append(None)
            every.append(entries)
        return tuple(path), every

    def _is_second_sight(self, sight: int) -> bool:
        place = sight & _SIGHT
        if self._sights[place] == sight:
            return True
        self._sights[place] = sight
        return False

    def _learn(
        self, domain: Domain, path: tuple[object, ...], every: list[_Entries], plan: Plan
    ) -> _Known:
        """Remember what a path leads to, from a request that took it."""
        recipes: list[tuple[int, Recipe]] = []
        for index, (entries, planned) in enumerate(zip(every, plan.descriptors, strict=True)):
            if planned.check is None:
                continue
            assert planned.limit is not None, "what is checked has a limit"
            steps = walk(domain, entries)
            parts = [
                to_part(domain, key, value, step)
                for (key, value), step in zip(entries, steps, strict=True)
            ]
            recipe = to_recipe(planned.limit, parts, self._options, self.hash_secret)
            recipes.append((index, recipe))
        size = sum(map(len, every))
        if self._known_entries + size > MAX_ENTRIES:
            self._known.clear()
            self._known_entries = 0
        self._known_entries += size
        cost = plan.descriptors[0].cost
        outlines = {cost: Outline(plan, self._options)}
        known = self._known[path] = _Known(outlines, tuple(recipes))
        return known
