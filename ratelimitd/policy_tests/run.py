"""Plays cases against a policy, and tells what came out otherwise."""

from collections.abc import Iterator
from dataclasses import dataclass

from ratelimitd.decisions.facts import Facts
from ratelimitd.decisions.fold import fold, longest
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.planning import make_plan
from ratelimitd.decisions.request import Descriptor, Request
from ratelimitd.decisions.subject import Subject
from ratelimitd.decisions.verdict import Code, Status, Verdict
from ratelimitd.decisions.who import subject_field
from ratelimitd.policy.active import active_policy
from ratelimitd.policy.model import Policy
from ratelimitd.policy_tests.cases import NEVER, Answer, Case, Step
from ratelimitd.policy_tests.server import PrivateStore

US_PER_S = 1_000_000

# The counters are nobody else's, so anybody may know it.
_SECRET = bytes(32)


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of a step that is not as expected."""

    step: int
    line: int
    field: str
    expected: str
    got: str

    def __str__(self) -> str:
        """Return it as a line."""
        return (
            f"step {self.step + 1} (line {self.line}): "
            f"{self.field}: expected {self.expected}, got {self.got}"
        )


def run_case(case: Case, policy: Policy, store: PrivateStore) -> list[Difference]:
    """Play one case on empty counters; no difference is a case that passed."""
    store.clear()
    found: list[Difference] = []
    for number, step in enumerate(case.steps):
        admitted = 0
        verdict: Verdict | None = None
        for _ in range(step.repeat):
            verdict = _ask(step, policy, store)
            admitted += verdict.code is Code.OK
        assert verdict is not None, "a step is asked at least once"
        for field, expected, got in _compare(step, verdict, admitted):
            found.append(Difference(number, step.line, field, expected, got))
    return found


def _ask(step: Step, policy: Policy, store: PrivateStore) -> Verdict:
    """Answer one request of a step: the one place where tests plan and decide."""
    active = active_policy(policy, step.now_us).policy
    request = Request(
        step.domain,
        tuple(
            Descriptor(entries, None, abs(step.hits), is_negative_hits=step.hits < 0)
            for entries in step.descriptors
        ),
    )
    facts = Facts(step.now_us)
    domain = active.domains.get(step.domain)
    if domain is not None and domain.subjects is not None and step.tier:
        fields = (subject_field(domain, entries, _SECRET) for entries in step.descriptors)
        facts = facts._replace(subjects={field: Subject(step.tier) for field in fields if field})
    options = DecisionOptions()
    plan = make_plan(active, request, options, _SECRET, facts)
    reply = store.check(plan, step.now_us) if plan.checks else None
    return fold(plan, reply, options, now_us=step.now_us)


def _compare(step: Step, verdict: Verdict, admitted: int) -> Iterator[tuple[str, str, str]]:
    """Yield (field, expected, got) for what differs."""
    expected = step.expected
    told = _told(verdict)
    answer = Answer.OK if verdict.code is Code.OK else Answer.OVER_LIMIT
    if expected.verdict not in (None, answer):
        yield "verdict", str(expected.verdict), str(answer)
    if expected.rule is not None:
        names = () if told is None or told.limit is None else (told.limit.name, told.limit.rule)
        if expected.rule not in names:
            shown = next((name for name in names if name), "no rule")
            yield "rule", expected.rule, shown
    if expected.remaining is not None:
        remaining = 0 if told is None else told.remaining
        if remaining != expected.remaining:
            yield "remaining", str(expected.remaining), str(remaining)
    if expected.retry_after_us is not None:
        wait_us = told.wait_us if told is not None and told.code is Code.OVER_LIMIT else 0
        if wait_us != expected.retry_after_us:
            yield "retry_after", _seconds(expected.retry_after_us), _seconds(wait_us)
    if expected.admitted not in (None, admitted):
        yield "admitted", str(expected.admitted), str(admitted)


def _told(verdict: Verdict) -> Status | None:
    """Return the status that decides: the longest refusal, else the one with least left."""
    limited = [status for status in verdict.statuses if status.limit is not None]
    refusals = [status for status in limited if status.code is Code.OVER_LIMIT]
    if refusals:
        return max(refusals, key=lambda status: longest(status.wait_us))
    return min(limited, key=lambda status: status.remaining, default=None)


def _seconds(time_us: int) -> str:
    if time_us < 0:
        return NEVER
    whole, part = divmod(time_us, US_PER_S)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".") + " s"
