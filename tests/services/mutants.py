"""Ways to be wrong between the bytes of a request, its plan, and the bytes of the answer."""

from tests.support.mutant import Mutant

ALIKE = "ratelimitd/services/alike.py"
PLANNER = "ratelimitd/services/planner.py"
FOLLOWING = "ratelimitd/services/following.py"

SUBJECT_TESTS = ("tests/services/test_subjects.py",)
READY_TESTS = ("tests/property/test_ready_plans.py",)
ALIKE_TESTS = ("tests/services/test_alike.py", "tests/property/test_alike.py")

SERVICE_MUTANTS = (
    Mutant(
        "a value that the policy names is planned as any other",
        PLANNER,
        "if step is None or step[1] != DEFAULT or step[0] is not like.node:",
        "if step is None:",
        ALIKE_TESTS,
    ),
    Mutant(
        "what stands behind the value may be anything",
        ALIKE,
        "kind is not None and body.endswith(kind.tail)",
        "kind is not None",
        ALIKE_TESTS,
    ),
    Mutant(
        "something hides in a request that is not read",
        ALIKE,
        "if not size or _with_value(message, at, value) != body:",
        "if not size:",
        ALIKE_TESTS,
    ),
    Mutant(
        "a longer request is of the kind of a shorter one",
        ALIKE,
        "heads = self._by_size.get(len(body))",
        "heads = next((one for one in self._by_size.values()), None)",
        ALIKE_TESTS,
    ),
    Mutant(
        "of two values that may be any one is learned",
        PLANNER,
        "if len(open_to_any) != 1 or steps",
        "if not open_to_any or steps",
        ALIKE_TESTS,
    ),
    Mutant(
        "a kind forgets what came beside",
        PLANNER,
        "who = self._follower.who(domain, asked, 0, like.attributes)",
        "who = self._follower.who(domain, asked, 0, NO_ATTRIBUTES)",
        ALIKE_TESTS,
    ),
    Mutant(
        "a subject that was forgotten is not asked for again",
        PLANNER,
        "if found is not record and not (found is UNKNOWN and field in ready.missing):",
        "if found is not record and found is not UNKNOWN:",
        ("tests/services/test_planner.py",),
    ),
    Mutant(
        "a directory that knows nobody is not asked",
        PLANNER,
        "NoDirectory() if directory is None else directory",
        "directory or NoDirectory()",
        SUBJECT_TESTS,
    ),
    Mutant(
        "a plan is kept when the record behind it changed",
        PLANNER,
        "            if found is not record and not",
        "            if found is UNKNOWN and not",
        SUBJECT_TESTS,
    ),
    Mutant(
        "a period that is stale is not asked again",
        "ratelimitd/services/hot_path.py",
        "answer.is_stale and not is_again",
        "False",
        SUBJECT_TESTS,
    ),
    Mutant(
        "the short way forgets a descriptor's own cost",
        FOLLOWING,
        '                or descriptor.HasField("hits_addend")\n',
        "",
        READY_TESTS,
    ),
    Mutant(
        "the short way forgets how a rule was reached",
        FOLLOWING,
        "path += (key, id(node), how)",
        "path += (key, id(node))",
        READY_TESTS,
    ),
    Mutant(
        "the short way shows no values in metrics",
        FOLLOWING,
        "not node.needs_metric_walk and ",
        "",
        READY_TESTS,
    ),
    Mutant(
        "the common answer hides what shadow limits say",
        "ratelimitd/services/ready_plan.py",
        "            if result[0] or result[6]:\n",
        "            if result[6]:\n",
        READY_TESTS,
    ),
    Mutant(
        "the common answer counts nothing near",
        "ratelimitd/services/ready_plan.py",
        "if after > near_from:",
        "if False:",
        READY_TESTS,
    ),
    Mutant(
        "metrics of a path count the cost that it was learned at",
        "ratelimitd/services/ready_plan.py",
        "line._replace(cost=cost)",
        "line",
        READY_TESTS,
    ),
)
