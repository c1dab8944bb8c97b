"""Every file in tests/data/policy, with what is expected of it in the `.expected` beside it."""

from pathlib import Path

import pytest

from ratelimitd.errors import PolicyError
from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.dump import to_table

DATA = Path(__file__).parents[2] / "data" / "policy"


def cases(kind: str) -> list[Path]:
    return sorted(path for path in (DATA / kind).iterdir() if path.suffix != ".expected")


def read(case: Path) -> dict[str, bytes]:
    """The case's file, or all files of a directory."""
    if case.is_file():
        return {case.name: case.read_bytes()}
    return {
        path.relative_to(case).as_posix(): path.read_bytes()
        for path in case.rglob("*")
        if path.is_file()
    }


def expected(case: Path) -> list[str]:
    return case.with_suffix(".expected").read_text().splitlines()


@pytest.mark.parametrize("case", cases("errors"), ids=lambda case: case.stem)
def test_file_with_errors_names_each_with_its_position(case: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        compile_policy(read(case))

    assert str(caught.value).splitlines() == expected(case)


@pytest.mark.parametrize("case", cases("warnings"), ids=lambda case: case.stem)
def test_odd_file_compiles_with_warnings(case: Path) -> None:
    compiled = compile_policy(read(case))

    assert [str(warning) for warning in compiled.warnings] == expected(case)


@pytest.mark.parametrize("case", cases("valid"), ids=lambda case: case.stem)
def test_valid_file_compiles_to_the_expected_limits(case: Path) -> None:
    compiled = compile_policy(read(case))

    assert to_table(compiled.policy) == expected(case)


@pytest.mark.parametrize("case", cases("errors"), ids=lambda case: case.stem)
def test_finding_points_into_the_file(case: Path) -> None:
    files = read(case)
    with pytest.raises(PolicyError) as caught:
        compile_policy(files)

    for finding in caught.value.findings:
        lines = files[finding.file].decode(errors="replace").splitlines()
        assert 0 <= finding.line <= len(lines) + 1
        assert (finding.line == 0) == (finding.column == 0)
        assert "\n" not in str(finding)
