"""Encoded requests to ready plans, under one policy and one hash secret.

Rules:
- A request of the usual kind, whose descriptors bring no limit and no cost of their own, takes a
  path through the policy: keys, rules, ways. The first of each path is planned in full, by
  `make_plan`; of the others only the counters are worked out.
- A path on which metrics show values, or an entry matches nothing, has no common outline.
- Bounded: MAX_OUTLINES paths are known; a policy has no more rules that are used at once.
"""

from typing import NamedTuple

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Plan
from ratelimitd.decisions.planning import make_plan
from ratelimitd.decisions.recipe import Recipe, to_recipe
from ratelimitd.policy.match import to_part, walk
from ratelimitd.policy.model import Domain, Policy
from ratelimitd.services.convert import RequestBounds, from_rls_request
from ratelimitd.services.parse import parse_request
from ratelimitd.services.ready_plan import Outline, ReadyPlan

MAX_OUTLINES = 4_096
# A longer key is matched by a pattern, and may be another one each time.
MAX_KEY = 256

_Entries = list[tuple[str, str]]


class _Known(NamedTuple):
    """The outline of a path, and a recipe for each check: which descriptor, and how."""

    outline: Outline
    recipes: tuple[tuple[int, Recipe], ...]


class Planner:
    """Plans requests under `policy`; another policy or secret is another planner."""

    def __init__(
        self, policy: Policy, options: DecisionOptions, hash_secret: bytes, bounds: RequestBounds
    ) -> None:
        """Know no path yet."""
        self.policy = policy
        self.hash_secret = hash_secret
        # How many whole plans were made for those that had an outline only.
        self.completed = 0
        self._options = options
        self._bounds = bounds
        # A text of so many characters is within the bound whatever they are.
        self._short = bounds.max_text_bytes // 4
        self._known: dict[tuple[object, ...], _Known] = {}
        # One object for all plans.
        self._complete_later = self._complete

    def plan(self, body: bytes) -> ReadyPlan:
        """Return the plan of an encoded request. Raises InvalidRequest."""
        message = parse_request(rls_pb2.RateLimitRequest, body)
        domain = self.policy.domains.get(message.domain)
        found = None if domain is None else self._follow(domain, message)
        if domain is None or found is None:
            plan = self._make(message)
            keys = tuple([check.key for check in plan.checks])
            return ReadyPlan(Outline(plan, self._options), keys, body, plan)
        path, entries = found
        known = self._known.get(path)
        if known is None:
            known = self._learn(domain, path, entries, self._make(message))
        keys = tuple([recipe.key(entries[index]) for index, recipe in known.recipes])
        return ReadyPlan(known.outline, keys, body, self._complete_later)

    def _complete(self, body: bytes) -> Plan:
        """Make the plan of a request that has an outline."""
        self.completed += 1
        return self._make(parse_request(rls_pb2.RateLimitRequest, body))

    def _make(self, message: rls_pb2.RateLimitRequest) -> Plan:
        request = from_rls_request(message, self._bounds)
        return make_plan(self.policy, request, self._options, self.hash_secret)

    def _follow(
        self, domain: Domain, message: rls_pb2.RateLimitRequest
    ) -> tuple[tuple[object, ...], list[_Entries]] | None:
        """Return the path of a usual request and its entries, or None for any other."""
        path: list[object] = [domain.name, message.hits_addend]
        every: list[_Entries] = []
        short = self._short
        for descriptor in message.descriptors:
            if (
                descriptor.is_negative_hits
                or descriptor.HasField("limit")
                or descriptor.HasField("hits_addend")
            ):
                return None
            entries = [(entry.key, entry.value) for entry in descriptor.entries]
            steps = walk(domain, entries)
            if not steps or len(steps) < len(entries) or steps[-1][0].needs_metric_walk:
                return None
            for (key, value), (node, how) in zip(entries, steps, strict=True):
                if len(value) > short or len(key) > MAX_KEY:
                    return None
                path += (key, id(node), how)
            path.append(None)
            every.append(entries)
        return tuple(path), every

    def _learn(
        self, domain: Domain, path: tuple[object, ...], every: list[_Entries], plan: Plan
    ) -> _Known:
        """Remember what a path leads to, from the first request that took it."""
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
        if len(self._known) >= MAX_OUTLINES:
            self._known.clear()
        known = self._known[path] = _Known(Outline(plan, self._options), tuple(recipes))
        return known
