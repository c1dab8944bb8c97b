"""Files of policy tests are found, read, played, and told of: as lines, and as JUnit's XML."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

from ratelimitd.errors import ConfigError, Finding, PolicyError
from ratelimitd.policy.model import Policy
from ratelimitd.policy.report import Report
from ratelimitd.policy_tests.cases import Case, read_cases
from ratelimitd.policy_tests.run import Difference, run_case
from ratelimitd.policy_tests.server import running_store

MAX_FILE_BYTES = 1024 * 1024
MAX_FILES = 1_000


@dataclass(frozen=True, slots=True)
class Played:
    """One case and what came out otherwise."""

    file: str
    case: Case
    differences: Sequence[Difference]

    @property
    def is_passed(self) -> bool:
        """Whether everything was as expected."""
        return not self.differences


@dataclass(slots=True)
class Results:
    """All cases that were played."""

    played: list[Played] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """How many cases did not pass."""
        return sum(not one.is_passed for one in self.played)


def play(path: Path, policy: Policy, tell: Callable[[Played], None]) -> Results:
    """Play every case of a file, or of all files of a directory; `tell` hears of each.

    Raises PolicyError with all findings of all files, ConfigError where there is none to play.
    """
    files = read_files(path)
    results = Results()
    with running_store() as store:
        for name, cases in files.items():
            for case in cases:
                played = Played(name, case, run_case(case, policy, store))
                results.played.append(played)
                tell(played)
    return results


def read_files(path: Path) -> dict[str, tuple[Case, ...]]:
    """Return the cases by the names of their files."""
    names = sorted(path.glob("*.y*ml")) if path.is_dir() else [path]
    if not names:
        raise ConfigError(f"{path}: no test is there; it looks for *.yaml")
    if len(names) > MAX_FILES:
        raise ConfigError(f"{path}: {len(names)} files; at most {MAX_FILES} are played at once")
    found: dict[str, tuple[Case, ...]] = {}
    findings: list[Finding] = []
    for name in names:
        report = Report(str(name))
        try:
            with name.open("rb") as opened:
                content = opened.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"{name}: {error.strerror}") from error
        if len(content) > MAX_FILE_BYTES:
            report.error(None, "", f"the file has more than {MAX_FILE_BYTES:,} bytes; split it")
        else:
            found[str(name)] = read_cases(content, report)
        findings += report.errors
    if findings:
        raise PolicyError(findings)
    return found


def to_junit(results: Results) -> bytes:
    """Return JUnit's XML: a suite for each file, a case for each case."""
    root = ET.Element("testsuites", tests=str(len(results.played)), failures=str(results.failed))
    for file in dict.fromkeys(one.file for one in results.played):
        own = [one for one in results.played if one.file == file]
        suite = ET.SubElement(
            root,
            "testsuite",
            name=file,
            tests=str(len(own)),
            failures=str(sum(not one.is_passed for one in own)),
        )
        for one in own:
            case = ET.SubElement(
                suite, "testcase", name=one.case.name, classname=file, line=str(one.case.line)
            )
            if one.differences:
                lines = [str(difference) for difference in one.differences]
                failure = ET.SubElement(case, "failure", message=lines[0])
                failure.text = "\n".join(lines)
    ET.indent(root)
    written: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return written
