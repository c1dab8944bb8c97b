"""`ratelimitd validate --test`: what is printed, what is written, and the exit codes."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ratelimitd import cli_tests, terminal
from ratelimitd.cli import NAME, app
from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy_tests.files import read_files
from tests.support.daemon import clean_environment

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "testing-policies.md"

POLICY = """
domain: api
descriptors:
  - {key: path, rate_limit: {name: per-path, unit: minute, requests_per_unit: 5}}
"""
RIGHT = """\
domain: api
cases:
  - {name: five pass, descriptors: [{path: /}], repeat: 6, expect: {admitted: 5}}
"""
WRONG = (
    RIGHT
    + """\
  - {name: six pass, descriptors: [{path: /}], repeat: 6, expect: {admitted: 6, rule: none}}
"""
)

Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Validate a policy with tests: exit code, lines on stdout and on stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy").mkdir()

    def run_now(
        tests: str | None, *arguments: str, policy: str = POLICY
    ) -> tuple[int, list[str], list[str]]:
        (tmp_path / "policy" / "api.yaml").write_text(policy)
        if tests is not None:
            (tmp_path / "t.yaml").write_text(tests)
        code = terminal.run_app(app, NAME, ["validate", "policy", *arguments])
        told = capsys.readouterr()
        return code, told.out.splitlines(), told.err.splitlines()

    return run_now


def test_cases_that_pass_are_a_line_each(run: Run) -> None:
    code, lines, errors = run(RIGHT, "--test", "t.yaml")

    assert (code, errors) == (0, [])
    assert lines[-4:] == ["", "pass  five pass  (t.yaml:3)", "", "1 case, all passed."]


def test_case_that_fails_shows_the_difference_and_is_exit_1(run: Run) -> None:
    # when
    code, lines, errors = run(WRONG, "--test", "t.yaml", "--junit", "out.xml")
    # then
    assert (code, errors) == (1, [])
    assert lines[lines.index("pass  five pass  (t.yaml:3)") + 1 :] == [
        "FAIL  six pass  (t.yaml:4)",
        "      step 1, t.yaml:4, at 2026-01-01T00:00:00Z",
        "        rule      expected none  got per-path",
        "        admitted  expected 6     got 5",
        "",
        "2 cases, 1 failed.",
    ]
    assert ET.parse("out.xml").getroot().get("failures") == "1"


def test_tests_that_cannot_be_read_are_exit_2_and_not_played(run: Run) -> None:
    # when
    code, lines, errors = run(
        RIGHT.replace("repeat: 6", "repeat: 0").replace("api", "x"), "--test", "."
    )
    # then
    assert code == 2
    assert errors[0].startswith("t.yaml:1:9: domain: the policy has no domain `x`")
    assert errors[-1] == f"ratelimitd: {len(errors) - 1} errors in the tests; none was played"
    assert not any("pass" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "policy", "line"),
    [
        (("--test", "no.yaml"), POLICY, "no.yaml: cannot be read: No such file or directory"),
        (("--test", "policy/none"), POLICY, "policy/none: cannot be read: No such file or"),
        (("--junit", "x.xml"), POLICY, "ratelimitd: --junit needs --test: there is nothing to"),
        (("--test", "t.yaml"), "domain: api\nx: 1", "policy/api.yaml:2:1: x: unknown key"),
        (("--test", "t.yaml", "--junit", "no/x"), POLICY, "ratelimitd: cannot write no/x: No such"),
    ],
)
def test_what_keeps_tests_from_being_told_is_exit_2(
    run: Run, arguments: tuple[str, ...], policy: str, line: str
) -> None:
    code, _, errors = run(RIGHT, *arguments, policy=policy)

    assert code == 2
    assert errors[0].startswith(line)


def test_policy_with_errors_is_exit_1_without_tests(run: Run) -> None:
    assert run(None, policy="domain: api\nx: 1")[0] == 1


def test_oddities_of_tests_are_warnings(run: Run) -> None:
    code, _, errors = run(RIGHT.replace("repeat: 6", "repeat: 07"), "--test", "t.yaml")

    assert code == 0
    assert errors == [
        "warning: t.yaml:3:57: cases[0].repeat: `07` is octal in YAML, so it means 7; drop the 0"
    ]


def test_terminal_shows_marks_and_how_far_a_long_run_is(run: Run, tmp_path: Path) -> None:
    # given more requests than are done at once
    step = "      - {descriptors: [{path: /}], repeat: 10000}\n"
    count = cli_tests.LONG_RUN // 10_000
    run(WRONG + f"  - name: long\n    steps:\n{step * count}")
    command = [sys.executable, "-m", "ratelimitd.cli", "validate", str(tmp_path / "policy")]
    environment = {"TERM": "xterm", "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    # when
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*command, "--test", str(tmp_path / "t.yaml")],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**clean_environment(), **environment},
    ) as process:
        os.close(theirs)
        shown = read_all(ours)
        errors = process.communicate()[1]
    # then
    assert (process.returncode, errors) == (1, b"")
    assert "\x1b[32m✓\x1b[0m  five pass" in shown
    assert "\x1b[31m✗\x1b[0m  six pass" in shown
    assert f"/{count * 10_000 + 12}" in shown


def read_all(terminal_end: int) -> str:
    """Return all that is written to the other end of a terminal, until it is closed."""
    found = b""
    with open(terminal_end, "rb", buffering=0) as opened:
        try:
            while data := opened.read(65_536):
                found += data
        except OSError:
            pass  # how Linux tells that nobody has the other end any more
    return found.decode()


def test_examples_pass(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # given the command of the document
    text = DOCUMENT.read_text("utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("ratelimitd validate "))
    _, command, policy, flag, tests, junit, _ = line.split()
    # when
    arguments = [command, str(ROOT / policy), flag, str(ROOT / tests), junit, str(tmp_path / "x")]
    code = terminal.run_app(app, NAME, arguments)
    # then
    told = capsys.readouterr()
    assert (code, told.err) == (0, "")
    assert told.out.splitlines()[-1].endswith(" cases, all passed.")
    assert ET.parse(tmp_path / "x").getroot().get("failures") == "0"


def test_every_example_policy_has_tests() -> None:
    # given
    files = {path.name: path.read_bytes() for path in (ROOT / "examples/policy").glob("*.yaml")}
    policy = compile_policy(files).policy
    # when
    found = read_files(ROOT / "examples" / "policy-tests", policy)
    # then
    asked = {step.domain for cases in found.cases.values() for one in cases for step in one.steps}
    assert asked == policy.domains.keys()


def test_document_has_an_example_that_passes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # given every file of tests that the document shows
    text = DOCUMENT.read_text("utf-8")
    blocks = [part.partition("```")[0] for part in text.split("```yaml\n")[1:]]
    for number, block in enumerate(blocks):
        (tmp_path / f"{number}.yaml").write_text(block)
    # when
    policy = str(ROOT / "examples" / "policy")
    code = terminal.run_app(app, NAME, ["validate", policy, "--test", str(tmp_path)])
    # then
    assert (code, capsys.readouterr().err) == (0, "")
    assert len(blocks) >= 2
