"""Encoded requests to ready plans, under one policy, one hash secret and one set of facts.

Rules:
- A request of the usual kind takes a path through the policy: see following. A path is learned at
  its second sight, by `make_plan`; from then on only counters, and a cost that is new, are worked
  out. Any other request is planned by itself, and has an outline of its own.
- Where one entry alone may have any value, requests that differ in it are not read: see alike.
- Bounded: MAX_ENTRIES of all paths together, and MAX_WHOLE whole plans that were asked for.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.facts import NO_FACTS, Facts
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Plan
from ratelimitd.decisions.planning import MAX_COST, make_plan
from ratelimitd.decisions.recipe import Place, Recipe, to_recipe
from ratelimitd.decisions.subject import Subject
from ratelimitd.decisions.who import NOBODY
from ratelimitd.policy.match import DEFAULT, EXACT, step_from, take_attributes, to_part, walk
from ratelimitd.policy.model import Domain, Node, Policy
from ratelimitd.services.alike import Alike
from ratelimitd.services.convert import RequestBounds, from_rls_request
from ratelimitd.services.directory import Directory, NoDirectory
from ratelimitd.services.following import (
    NO_ATTRIBUTES,
    Asked,
    Entries,
    Followed,
    Follower,
    sign_of,
)
from ratelimitd.services.parse import parse_request
from ratelimitd.services.ready_plan import Outline, ReadyPlan
from ratelimitd.services.sights import Sights
from ratelimitd.services.subject_cache import UNKNOWN
from ratelimitd.store.wire import pack_plan

# Of all paths that are known: what one takes is about a KiB for each of its entries.
MAX_ENTRIES = 4_096
# Costs of a path whose outlines are kept: most have one, and some traffic has another each time.
MAX_COSTS = 8
# Whole plans are asked for by refusals, and the same callers are refused again and again.
MAX_WHOLE = 512
MAX_WHOLE_CHECKS = 2_048
MAX_SIGHTS = 4_096


class _Known(NamedTuple):
    """The outlines of a path by their cost, and a recipe for each check: which descriptor, how."""

    outlines: dict[int, Outline]
    recipes: tuple[tuple[int, Recipe], ...]
    is_plain: bool


class _Like(NamedTuple):
    """Requests of one descriptor that differ in one value, which leads from `parent` to `node`.

    `path` lacks who asks, which stands at its end.
    """

    domain: Domain
    path: tuple[object, ...]
    before: Entries
    key: str
    after: Entries
    attributes: Mapping[str, str]
    parent: Node
    node: Node


class Planner:
    """Plans requests under `policy`; another policy, secret or other facts is another planner."""

    def __init__(  # noqa: PLR0917 - what a plan depends on
        self,
        policy: Policy,
        options: DecisionOptions,
        hash_secret: bytes,
        bounds: RequestBounds,
        facts: Facts = NO_FACTS,
        directory: Directory | None = None,
    ) -> None:
        """Know no path yet."""
        self.policy = policy
        self.hash_secret = hash_secret
        self.facts = facts
        self._options = options
        self._bounds = bounds
        # An empty one counts as false.
        self._directory: Directory = NoDirectory() if directory is None else directory
        self._follower = Follower(bounds, hash_secret, facts, self._directory)
        self._known: dict[tuple[object, ...], _Known] = {}
        self._known_entries = 0
        self._sights = Sights(MAX_SIGHTS)
        self._alike: Alike[_Like] = Alike()
        self._whole: dict[object, Plan] = {}
        self._whole_checks = 0

    def plan(self, body: bytes) -> ReadyPlan:
        """Return the plan of an encoded request. Raises InvalidRequest."""
        alike = self._alike.find(body)
        if alike is not None:
            ready = self._plan_alike(*alike, body)
            if ready is not None:
                return ready
        message = parse_request(rls_pb2.RateLimitRequest, body)
        domain = self.policy.domains.get(message.domain)
        asked = self._follower.ask(domain, message)
        found = None if domain is None else self._follower.follow(domain, message, asked)
        if domain is None or found is None:
            return self._plan_alone(message, body, asked)
        known = self._known.get(found.path)
        if known is None:
            if not self._sights.is_second(hash(found.path)):
                return self._plan_alone(message, body, asked)
            known = self._learn(domain, found, self._make(message, asked.subjects))
        elif len(message.descriptors) == 1:
            self._learn_alike(domain, found, message, asked, body)
        cost = min(max(1, message.hits_addend), MAX_COST)
        return self._plan_known(known, cost, found.entries, body, asked)

    def _plan_alike(self, like: _Like, value: str, body: bytes) -> ReadyPlan | None:
        """Plan a request by what is known of its kind; None if it must be read after all."""
        step = step_from(like.parent, like.key, value)
        if step is None or step[1] != DEFAULT or step[0] is not like.node:
            return None
        domain = like.domain
        entries = [*like.before, (like.key, value), *like.after]
        asked = Asked([entries], [], {}, [])
        who = NOBODY
        if domain.subjects is not None:
            self._follower.look_up(domain, asked)
            who = self._follower.who(domain, asked, 0, like.attributes)
        known = self._known.get((*like.path, sign_of(who)))
        return None if known is None else self._plan_known(known, 1, asked.entries, body, asked)

    def _plan_known(
        self, known: _Known, cost: int, entries: Sequence[Entries], body: bytes, asked: Asked
    ) -> ReadyPlan:
        """Plan a request whose path is known: only its counters are to be named."""
        outline = known.outlines.get(cost)
        if outline is None:
            outline = next(iter(known.outlines.values())).at_cost(cost)
            if len(known.outlines) < MAX_COSTS:
                known.outlines[cost] = outline
        if known.is_plain:
            keys = tuple([recipe.key(entries[index]) for index, recipe in known.recipes])
        else:
            keys = tuple(
                [key for index, recipe in known.recipes for key in recipe.keys(entries[index])]
            )
        if not asked.subjects:
            return ReadyPlan(outline, outline.shape, keys, body, None, self)
        records, missing = tuple(asked.subjects.items()), tuple(asked.missing)
        return ReadyPlan(outline, outline.shape, keys, body, None, self, b"", records, missing)

    def is_current(self, ready: ReadyPlan) -> bool:
        """Tell whether the directory says nothing else of a plan's subjects than it was made with.

        One that was forgotten is to be asked for again; one that was missing may be missing still.
        """
        get = self._directory.get
        for field, record in ready.subjects:
            found = get(field)
            if found is not record and not (found is UNKNOWN and field in ready.missing):
                return False
        return True

    def whole_plan(self, ready: ReadyPlan) -> Plan:
        """Return the plan of a request that was planned before."""
        sign: object = (ready.body, ready.subjects) if ready.subjects else ready.body
        plan = self._whole.get(sign)
        if plan is None:
            message = parse_request(rls_pb2.RateLimitRequest, ready.body)
            plan = self._make(message, dict(ready.subjects))
            checks = len(plan.checks)
            if len(self._whole) >= MAX_WHOLE or self._whole_checks + checks > MAX_WHOLE_CHECKS:
                self._whole.clear()
                self._whole_checks = 0
            self._whole[sign] = plan
            self._whole_checks += checks
        return plan

    def _plan_alone(
        self, message: rls_pb2.RateLimitRequest, body: bytes, asked: Asked
    ) -> ReadyPlan:
        """Plan a request that shares its outline with no other."""
        plan = self._make(message, asked.subjects)
        outline = Outline(plan, self._options)
        packed = pack_plan(plan)
        return ReadyPlan(
            outline,
            packed.shape,
            packed.keys,
            body,
            plan,
            self,
            packed.slots,
            tuple(asked.subjects.items()),
            tuple(asked.missing),
        )

    def _make(
        self, message: rls_pb2.RateLimitRequest, subjects: Mapping[str, Subject | None]
    ) -> Plan:
        request = from_rls_request(message, self._bounds)
        facts = self.facts._replace(subjects=subjects) if subjects else self.facts
        return make_plan(self.policy, request, self._options, self.hash_secret, facts)

    def _learn_alike(
        self,
        domain: Domain,
        found: Followed,
        message: rls_pb2.RateLimitRequest,
        asked: Asked,
        body: bytes,
    ) -> None:
        """Remember what requests like this one lead to, if one value alone may be another."""
        (sent,) = asked.entries
        (matched,) = found.entries
        attributes: Mapping[str, str] = NO_ATTRIBUTES
        if domain.attributes:
            _, attributes = take_attributes(domain, sent)
        if not self._alike.is_due(body, (found.path, tuple(attributes.items()))):
            return
        steps = walk(domain, matched)
        open_to_any = [at for at, (_, how) in enumerate(steps) if how != EXACT]
        if len(open_to_any) != 1 or steps[open_to_any[0]][1] != DEFAULT:
            return
        (at,) = open_to_any
        key, value = matched[at]
        if len(value.encode()) > self._follower.short:
            return
        like = _Like(
            domain,
            found.path[:-1],
            matched[:at],
            key,
            matched[at + 1 :],
            attributes,
            steps[at - 1][0] if at else domain.root,
            steps[at][0],
        )
        places = [number for number, (name, _) in enumerate(sent) if name not in attributes]
        self._alike.learn(body, message, places[at], like)

    def _learn(self, domain: Domain, found: Followed, plan: Plan) -> _Known:
        """Remember what a path leads to, from a request that took it."""
        recipes: list[tuple[int, Recipe]] = []
        place = Place(self._options, self.hash_secret, domain.partition_by)
        for index, (entries, planned) in enumerate(
            zip(found.entries, plan.descriptors, strict=True)
        ):
            if planned.check is None:
                continue
            steps = walk(domain, entries)
            parts = [
                to_part(domain, key, value, step)
                for (key, value), step in zip(entries, steps, strict=True)
            ]
            for at in range(planned.check, planned.check + planned.check_count):
                limit = plan.checks[at].limit
                recipes.append((index, to_recipe(limit, parts, place, found.tiers[index])))
        size = sum(map(len, found.entries))
        if self._known_entries + size > MAX_ENTRIES:
            self._known.clear()
            self._known_entries = 0
        self._known_entries += size
        cost = plan.descriptors[0].cost
        known = _Known(
            {cost: Outline(plan, self._options)},
            tuple(recipes),
            all(recipe.newcomers is None for _, recipe in recipes),
        )
        self._known[found.path] = known
        return known
