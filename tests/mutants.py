"""Break the code on purpose: every mutant must fail a test. `make mutants`.

Each mutant is one replacement in one file, run in a copy of the tree against the tests that guard
it. A replacement that no longer fits its file is an error too, so the list cannot rot unseen.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.lua.mutants import LUA_MUTANTS
from tests.services.mutants import SERVICE_MUTANTS
from tests.support.mutant import Mutant

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 1200
COPIED = ("ratelimitd", "quotas", "lua", "tests", "proto", "examples", "pyproject.toml")

DECISION_TESTS = ("tests/unit/decisions",)
SUBJECT_TESTS = ("tests/services/test_subjects.py",)
READY_TESTS = ("tests/property/test_ready_plans.py",)
CALLER_TESTS = (
    *("tests/unit/policy/test_callers.py", "tests/unit/policy/test_callers_file.py"),
    *("tests/services/test_gate.py", "tests/transport/test_callers.py"),
)
# What the corpus of the fuzzer alone notices.
H2_CASES = ("tests/transport/h2/test_fuzz_cases.py", "-k", "kept")
DENY_CACHE = "ratelimitd/decisions/deny_cache.py"


MUTANTS = (
    *LUA_MUTANTS,
    *SERVICE_MUTANTS,
    Mutant(
        "seconds are rounded down",
        "ratelimitd/decisions/fold.py",
        "-(-time_us // US_PER_S)",
        "time_us // US_PER_S",
        DECISION_TESTS,
    ),
    Mutant(
        "an override of a subject is for what many share",
        "ratelimitd/decisions/who.py",
        "is_own = limit.scope is Scope.SUBJECT",
        "is_own = True",
        DECISION_TESTS,
    ),
    Mutant(
        "a tier entry is believed though it is not trusted",
        "ratelimitd/decisions/who.py",
        "if subjects.trusts_tier_entry and (",
        "if (",
        DECISION_TESTS,
    ),
    Mutant(
        "an unknown tier has a counter of its own",
        "ratelimitd/decisions/recipe.py",
        "return tier if tier in limit.tiers else DEFAULT_TIER",
        "return tier or DEFAULT_TIER",
        DECISION_TESTS,
    ),
    Mutant(
        "the shortest wait of several refusals is told",
        "ratelimitd/decisions/fold.py",
        "return max(refusals, key=lambda status: longest(status.wait_us))",
        "return min(refusals, key=lambda status: longest(status.wait_us))",
        DECISION_TESTS,
    ),
    Mutant(
        "a slot of the deny cache refuses concurrency",
        DENY_CACHE,
        "return limit.algorithm is not Algorithm.CONCURRENCY and not limit.counts_denied",
        "return not limit.counts_denied",
        DECISION_TESTS,
    ),
    Mutant(
        "a limit lasts beyond its end",
        "ratelimitd/policy/active.py",
        "limit.until_us is None or now_us < limit.until_us",
        "limit.until_us is None or now_us <= limit.until_us",
        ("tests/unit/policy/test_active.py",),
    ),
    Mutant(
        "the deny cache refuses smaller costs",
        DENY_CACHE,
        "and check.cost >= entry.cost",
        "and check.cost > 0",
        DECISION_TESTS,
    ),
    Mutant(
        "the deny cache ignores the amount",
        DENY_CACHE,
        "        and limit.requests_per_unit == entry.amount\n",
        "",
        DECISION_TESTS,
    ),
    Mutant(
        "the deny cache outlives its window",
        DENY_CACHE,
        "min(wait_us, MAX_AGE_US)",
        "MAX_AGE_US",
        DECISION_TESTS,
    ),
    Mutant(
        "the deny cache remembers sums",
        DENY_CACHE,
        "or not _refuses_alone(check, result)",
        "or not result.is_over",
        DECISION_TESTS,
    ),
    Mutant(
        "a shared pattern is a value",
        "ratelimitd/decisions/recipe.py",
        "PartKind.PATTERN, part.counter_value",
        "PartKind.VALUE, part.value",
        DECISION_TESTS,
    ),
    Mutant(
        "separators are not escaped",
        "ratelimitd/decisions/keys.py",
        "(text.isascii() and text.isalnum()) or _PLAIN.fullmatch(text)",
        "text",
        DECISION_TESTS,
    ),
    Mutant(
        "rule metadata is shared between answers",
        "ratelimitd/decisions/metadata.py",
        "into[name] = _copy(value)",
        "into[name] = value",
        DECISION_TESTS,
    ),
    Mutant(
        "a shared name is one text whatever the value",
        "ratelimitd/decisions/recipe.py",
        "part.node.is_shared and part.matched_by is not MatchedBy.DEFAULT",
        "part.node.is_shared",
        READY_TESTS,
    ),
    Mutant(
        "the short way forgets secrets",
        "ratelimitd/decisions/recipe.py",
        "elif kind == PartKind.SECRET:",
        "elif False:",
        READY_TESTS,
    ),
    Mutant(
        "an addend of zero spends",
        "ratelimitd/decisions/planning.py",
        "if sent is None else sent",
        "if not sent else sent",
        DECISION_TESTS,
    ),
    Mutant(
        "a plan is sent though its deadline passed in the queue",
        "ratelimitd/store/batcher.py",
        "                self._tell_one(waiting, _too_late(waiting))\n                continue\n",
        "                pass\n",
        ("tests/store/test_batcher_deadlines.py",),
    ),
    Mutant(
        "a reply that cannot be read leaves its callers waiting",
        "ratelimitd/store/single.py",
        "except Exception as error:  # noqa: BLE001 - whoever waits",
        "except StoreError as error:  # whoever waits",
        ("tests/store/test_single.py", "-k", "no_scripts"),
    ),
    Mutant(
        "what was sent again after LOADING was not perhaps spent",
        "ratelimitd/store/exchange.py",
        "        call.owners = _ONE\n        call.answers[0] = UNANSWERED\n",
        "        call.owners = _ONE\n",
        ("tests/store/test_connection.py", "-k", "after_a_store"),
    ),
    Mutant(
        "a TLS session outlives the authority of its certificate",
        "ratelimitd/transport/h2/tls.py",
        "context.options |= ssl.OP_NO_TICKET",
        "pass",
        ("tests/transport/h2/test_tls.py",),
    ),
    Mutant(
        "a request is taken within a header block",
        "ratelimitd/transport/h2/dispatch.py",
        "        self._expected = NEVER\n        self._block_flags = flags\n",
        "        self._block_flags = flags\n",
        H2_CASES,
    ),
    Mutant(
        "blocks mean what they meant before the table changed",
        "ratelimitd/transport/h2/lifecycle.py",
        "if self._decoder.changed and self._blocks:",
        "if False:",
        H2_CASES,
    ),
    Mutant(
        "a request that was taken back is kept",
        "ratelimitd/transport/h2/dispatch.py",
        "        self._counters.peer_resets += 1\n        self._intake.close(stream_id)\n",
        "        self._counters.peer_resets += 1\n",
        H2_CASES,
    ),
    Mutant(
        "answers wait behind an open connection window",
        "ratelimitd/transport/h2/outbox.py",
        "        self._pump_ready()\n\n",
        "\n",
        H2_CASES,
    ),
    Mutant(
        "an answer waits for ever",
        "ratelimitd/transport/h2/outbox.py",
        "if answer.age > limit",
        "if answer.age > 2 * limit",
        ("tests/transport/h2/test_bounds.py",),
    ),
    Mutant(
        "a name of a certificate is compared without its kind",
        "ratelimitd/policy/callers.py",
        "return kind, text.lower()",
        "return URI, text.lower()",
        CALLER_TESTS,
    ),
    Mutant(
        "one name's methods come with another's domains",
        "ratelimitd/policy/callers.py",
        "others = _union(others, entry.domains)",
        "others = None",
        CALLER_TESTS,
    ),
    Mutant(
        "a peer keeps the rights that it came with",
        "ratelimitd/services/gate.py",
        "if callers is not self._callers:",
        "if self._callers is _NOBODY:",
        CALLER_TESTS,
    ),
    Mutant(
        "every domain is admitted",
        "ratelimitd/services/gate.py",
        "if domains is None or domain in domains:",
        "if domains is None or domains:",
        CALLER_TESTS,
    ),
    Mutant(
        "callers with names pass by the file",
        "ratelimitd/services/gate.py",
        "return self.holder.callers is None and not self.names",
        "return not self.names",
        CALLER_TESTS,
    ),
    Mutant(
        "a callers file without certificates is taken",
        "ratelimitd/policy/compile.py",
        "if not options.knows_callers:",
        "if False:",
        CALLER_TESTS,
    ),
)


def main() -> int:
    """Run every mutant, or those whose name holds an argument; the exit code is survivors > 0."""
    wanted = sys.argv[1:]
    chosen = [m for m in MUTANTS if not wanted or any(word in m.name for word in wanted)]
    survivors = []
    for number, mutant in enumerate(chosen, 1):
        is_killed = run(mutant)
        print(f"[{number}/{len(chosen)}] {'killed  ' if is_killed else 'SURVIVED'} {mutant.name}")  # noqa: T201
        if not is_killed:
            survivors.append(mutant.name)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants killed")  # noqa: T201
    return 1 if survivors else 0


def run(mutant: Mutant) -> bool:
    """Apply one mutant to a copy of the tree and say whether a test fails there."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        copy = Path(directory)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        target = copy / mutant.file
        text = target.read_text("utf-8")
        if text.count(mutant.old) < 1:
            message = f"{mutant.name}: {mutant.file} does not hold {mutant.old!r} any more"
            raise SystemExit(message)
        target.write_text(text.replace(mutant.old, mutant.new), "utf-8")
        finished = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", *mutant.tests],
            cwd=copy,
            env={**os.environ, "HYPOTHESIS_PROFILE": "mutants"},
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        # 1: tests failed. Anything else but 0 means that they did not run.
        if finished.returncode not in (0, 1):
            raise SystemExit(finished.stdout.decode()[-2000:] + finished.stderr.decode()[-2000:])
        return finished.returncode == 1


if __name__ == "__main__":
    sys.exit(main())
