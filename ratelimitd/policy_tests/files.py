"""Files of policy tests are found, read and played."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ratelimitd.errors import ConfigError, Finding, PolicyError
from ratelimitd.policy.model import Policy
from ratelimitd.policy.report import Report
from ratelimitd.policy_tests.cases import read_cases
from ratelimitd.policy_tests.model import Case
from ratelimitd.policy_tests.run import FailedStep, OnAsked, run_case
from ratelimitd.policy_tests.server import running_store

MAX_FILE_BYTES = 1024 * 1024
MAX_FILES = 1_000
_ENDINGS = (".yaml", ".yml")


class CaseFiles(NamedTuple):
    """Every case by the name of its file, and what is odd about the files."""

    cases: Mapping[str, tuple[Case, ...]]
    warnings: tuple[Finding, ...]

    @property
    def request_count(self) -> int:
        """How many requests all cases are."""
        return sum(
            step.repeat for cases in self.cases.values() for case in cases for step in case.steps
        )


class Played(NamedTuple):
    """One case and what came out otherwise."""

    file: str
    case: Case
    failed: tuple[FailedStep, ...]

    @property
    def is_passed(self) -> bool:
        """Whether everything was as expected."""
        return not self.failed


@dataclass(slots=True)
class Results:
    """All cases that were played."""

    played: list[Played] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """How many cases did not pass."""
        return sum(not one.is_passed for one in self.played)


def read_files(path: Path, policy: Policy) -> CaseFiles:
    """Read a file of tests, or all files of a directory, about `policy`.

    Raises PolicyError with all findings of all files, ConfigError where there is none to play.
    """
    found: dict[str, tuple[Case, ...]] = {}
    errors: list[Finding] = []
    warnings: list[Finding] = []
    for name in _find(path):
        report = Report(str(name))
        try:
            with name.open("rb") as opened:
                content = opened.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            report.error(None, "", f"cannot be read: {error.strerror}")
        else:
            if len(content) > MAX_FILE_BYTES:
                report.error(None, "", f"the file has more than {MAX_FILE_BYTES:,} bytes; split it")
            else:
                found[str(name)] = read_cases(content, report, policy.domains)
        errors += report.errors
        warnings += report.warnings
    if errors:
        raise PolicyError(errors)
    return CaseFiles(found, tuple(warnings))


def play(
    files: CaseFiles, policy: Policy, on_played: Callable[[Played], None], on_asked: OnAsked
) -> Results:
    """Play every case; `on_played` hears of each, `on_asked` how many requests were answered.

    ConfigError if there is no server to decide.
    """
    results = Results()
    with running_store() as store:
        for name, cases in files.cases.items():
            for case in cases:
                played = Played(name, case, run_case(case, policy, store, on_asked))
                results.played.append(played)
                on_played(played)
    return results


def _find(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    found = [path / name for name in names if name.endswith(_ENDINGS) and not name.startswith(".")]
    if not found:
        raise ConfigError(f"{path}: no test is there; it looks for *.yaml and *.yml")
    if len(found) > MAX_FILES:
        raise ConfigError(f"{path}: {len(found)} files; at most {MAX_FILES} are played at once")
    return found
