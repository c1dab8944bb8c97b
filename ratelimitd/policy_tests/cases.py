"""Files of policy tests become cases.

Rules:
- A case without `steps` is one step, whose keys stand in the case itself.
- All errors of a file are told at once, each with its place.
"""

from collections.abc import Mapping

from ratelimitd.policy.document import read_document
from ratelimitd.policy.fields import read_list, read_text, value_of
from ratelimitd.policy.model import Domain
from ratelimitd.policy.nodes import MapNode
from ratelimitd.policy.report import Report, quote
from ratelimitd.policy.spans import US_PER_S
from ratelimitd.policy_tests.keys import check_keys
from ratelimitd.policy_tests.model import Case, Step
from ratelimitd.policy_tests.steps import STEP_KEYS, Context, read_step

MAX_STEPS = 10_000
"""Of one file; each is at least one question to a server."""

START_US = 1_767_225_600 * US_PER_S
"""When a case begins that does not say: 2026-01-01T00:00:00Z, a Thursday."""

_FILE_KEYS = ("cases", "domain")
_CASE_KEYS = ("name", "steps")


def read_cases(
    content: str | bytes, report: Report, domains: Mapping[str, Domain]
) -> tuple[Case, ...]:
    """Return the cases of a file that asks about `domains`; what is wrong with it is reported."""
    root = read_document(content, report, key="cases")
    if root is None:
        return ()
    check_keys(root, "", _FILE_KEYS, report)
    context = Context(report, domains, root)
    items = read_list(root, "cases", "", report)
    if not items:
        report.error(root, "cases", "is missing or empty; a file of tests has at least one")
    cases: list[Case] = []
    lines: dict[str, int] = {}
    steps = 0
    for index, item in enumerate(items):
        path = f"cases[{index}]"
        if not isinstance(item, MapNode):
            report.error(item, path, "must be a map")
            continue
        case = _read_case(item, path, context)
        if case.name and case.name in lines:
            message = f"{quote(case.name)} is already the case in line {lines[case.name]}"
            report.error(item.get("name") or item, f"{path}.name", message)
        lines.setdefault(case.name, case.line)
        steps += len(case.steps)
        if steps > MAX_STEPS:
            report.error(item, path, f"the file has more than {MAX_STEPS:,} steps; split it")
            break
        cases.append(case)
    return tuple(cases)


def _read_case(node: MapNode, path: str, context: Context) -> Case:
    report = context.report
    has_steps = value_of(node, "steps") is not None
    check_keys(node, path, _CASE_KEYS if has_steps else (*_CASE_KEYS, *STEP_KEYS), report)
    name = read_text(node, "name", path, report)
    if not name:
        report.error(node.get("name") or node, f"{path}.name", "is missing or empty")
    if not has_steps:
        return Case(name, node.line, (read_step(node, path, context, START_US),))
    items = read_list(node, "steps", path, report)
    if not items:
        report.error(node.get("steps"), f"{path}.steps", "is empty; a case has at least one step")
    steps: list[Step] = []
    now_us = START_US
    for index, item in enumerate(items):
        below = f"{path}.steps[{index}]"
        if not isinstance(item, MapNode):
            report.error(item, below, "must be a map")
            continue
        check_keys(item, below, STEP_KEYS, report)
        step = read_step(item, below, context, now_us)
        now_us = step.now_us
        steps.append(step)
    return Case(name, node.line, tuple(steps))
