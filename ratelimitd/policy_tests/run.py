"""Plays cases against a policy, and finds what came out otherwise."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ratelimitd.decisions.facts import Facts
from ratelimitd.decisions.fold import fold, longest
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Reply
from ratelimitd.decisions.planning import make_plan
from ratelimitd.decisions.request import Request
from ratelimitd.decisions.subject import Subject
from ratelimitd.decisions.verdict import Code, Status, Verdict, refusing
from ratelimitd.decisions.who import subject_field
from ratelimitd.policy.active import active_policy
from ratelimitd.policy.model import Policy
from ratelimitd.policy_tests.model import NEVER, Answer, Case, Step
from ratelimitd.policy_tests.server import PrivateStore

US_PER_S = 1_000_000

OnAsked = Callable[[int], None]

# The counters are nobody else's, so anybody may know it.
_SECRET = bytes(32)


class Difference(NamedTuple):
    """One field of a step that is not as expected."""

    field: str
    expected: str
    got: str


class FailedStep(NamedTuple):
    """A step, by its number from 0, and all that came out otherwise."""

    number: int
    step: Step
    differences: tuple[Difference, ...]


class _Answered(NamedTuple):
    """The last verdict of a step, and how many of all repeats were answered OK."""

    verdict: Verdict
    admitted: int


def run_case(
    case: Case, policy: Policy, store: PrivateStore, on_asked: OnAsked
) -> tuple[FailedStep, ...]:
    """Play one case on empty counters; no failed step is a case that passed.

    `on_asked` is told how many requests were answered since it was told before.
    """
    store.clear()
    failed: list[FailedStep] = []
    for number, step in enumerate(case.steps):
        answered = _ask(step, policy, store, on_asked)
        if differences := tuple(_compare(step, answered)):
            failed.append(FailedStep(number, step, differences))
    return tuple(failed)


def _ask(step: Step, policy: Policy, store: PrivateStore, on_asked: OnAsked) -> _Answered:
    """Answer the requests of a step: the one place where tests plan and decide.

    They are all the same at the same time, so one plan is good for all of them.
    """
    active = active_policy(policy, step.now_us).policy
    facts = Facts(step.now_us)
    domain = active.domains[step.domain]
    if domain.subjects is not None and step.tier:
        fields = [subject_field(domain, one.entries, _SECRET) for one in step.descriptors]
        facts = facts._replace(subjects={field: Subject(step.tier) for field in fields if field})
    options = DecisionOptions()
    plan = make_plan(active, Request(step.domain, step.descriptors), options, _SECRET, facts)
    last: Reply | None = None
    admitted = 0
    if plan.checks:
        for replies in store.check(plan, step.now_us, step.repeat):
            last = replies[-1]
            admitted += sum(not reply.is_refused for reply in replies)
            assert not last.is_stale, "a plan for this time has its periods"
            on_asked(len(replies))
    else:
        admitted = 0 if plan.is_denied else step.repeat
        on_asked(step.repeat)
    return _Answered(fold(plan, last, options, now_us=step.now_us), admitted)


def _compare(step: Step, answered: _Answered) -> Iterator[Difference]:
    """Yield what differs."""
    expected, verdict = step.expected, answered.verdict
    told = _told(verdict)
    answer = Answer.OK if verdict.code is Code.OK else Answer.OVER_LIMIT
    if expected.verdict not in (None, answer):
        yield Difference("verdict", str(expected.verdict), str(answer))
    if expected.rule is not None:
        names = () if told.limit is None else (told.limit.name, told.limit.rule)
        if expected.rule not in names:
            shown = next((name for name in names if name), "no rule")
            yield Difference("rule", expected.rule, shown)
    if expected.remaining not in (None, told.remaining):
        yield Difference("remaining", str(expected.remaining), str(told.remaining))
    if expected.retry_after_us is not None:
        is_refusal = verdict.code is Code.OVER_LIMIT
        if not is_refusal or told.wait_us != expected.retry_after_us:
            got = _seconds(told.wait_us) if is_refusal else "no refusal"
            yield Difference("retry_after", _seconds(expected.retry_after_us), got)
    if expected.admitted not in (None, answered.admitted):
        yield Difference("admitted", str(expected.admitted), str(answered.admitted))


def _told(verdict: Verdict) -> Status:
    """Return the status that decides: the refusal with the longest wait, else the least left.

    A status without a limit has nothing left to tell where another has one.
    """
    if verdict.code is Code.OVER_LIMIT:
        refusals = [verdict.statuses[at] for at in refusing(verdict.statuses)]
        return max(refusals, key=lambda status: longest(status.wait_us))
    limited = [status for status in verdict.statuses if status.limit is not None]
    return min(limited or verdict.statuses, key=lambda status: status.remaining)


def _seconds(time_us: int) -> str:
    if time_us < 0:
        return NEVER
    whole, part = divmod(time_us, US_PER_S)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".") + " s"
