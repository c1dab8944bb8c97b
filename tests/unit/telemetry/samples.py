"""Policies and verdicts to count, and a scrape read back by prometheus_client's own parser."""

from prometheus_client.parser import text_string_to_metric_families

from ratelimitd.decisions.plan import Plan
from ratelimitd.decisions.request import Descriptor, Request
from ratelimitd.decisions.verdict import Code, RuleCount, RuleOutcome, Status, Verdict
from ratelimitd.policy.model import Domain, Limit, Node, Policy, Position

POSITION = Position("api.yaml", 1, 1)
Scrape = dict[tuple[str, frozenset[tuple[str, str]]], float]


def limit(name: str, *, domain: str = "api") -> Limit:
    return Limit(domain=domain, rule=f"{domain}.{name}", position=POSITION)


def policy(*names: str, domain: str = "api", revision: str = "00ff") -> Policy:
    children = {
        name: Node(
            name=name,
            rule=name,
            position=POSITION,
            limits=(limit(name, domain=domain),),
            exact={},
            metric_key=name,
        )
        for name in names
    }
    root = Node(name="", rule=domain, position=POSITION, exact=children)
    return Policy(revision, {domain: Domain(name=domain, root=root, position=POSITION)})


def count(
    name: str,
    outcome: RuleOutcome = RuleOutcome.ALLOWED,
    *,
    domain: str = "api",
    rule: str | None = None,
    hits: int = 1,
    over: int = 0,
    near: int = 0,
    within: int = 0,
    shadow: int = 0,
    cached: int = 0,
    refunded: int = 0,
) -> RuleCount:
    return RuleCount(
        limit=limit(name if rule is None else rule, domain=domain),
        metric_key=name,
        outcome=outcome,
        hits=hits,
        over_hits=over,
        near_hits=near,
        within_hits=within,
        shadow_hits=shadow,
        cached_hits=cached,
        refunded_hits=refunded,
        is_near=near > 0,
    )


def verdict(
    *counts: RuleCount,
    domain: str = "api",
    unmatched: int = 0,
    is_domain_known: bool = True,
    is_shadowed: bool = False,
) -> Verdict:
    size = max(len(counts) + unmatched, 1)
    descriptor = Descriptor((("k", "v"),))
    plan = Plan(
        request=Request(domain, (descriptor,) * size),
        policy_revision="00ff",
        descriptors=(),
        checks=(),
        is_domain_known=is_domain_known,
    )
    return Verdict(
        plan=plan,
        code=Code.OK,
        statuses=(Status(Code.OK),) * size,
        counts=counts,
        unmatched=unmatched,
        is_shadowed=is_shadowed,
    )


def parse(body: bytes) -> Scrape:
    """Read a scrape back; the parser gives every counter the suffix `_total`, written or not."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def value(scrape: Scrape, name: str, **labels: str) -> float:
    return scrape[(name, frozenset(labels.items()))]


def names(scrape: Scrape) -> set[str]:
    return {name for name, _ in scrape}
