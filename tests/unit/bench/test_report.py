from pathlib import Path

import pytest

from bench import plots
from bench.report import Results, to_line, to_text
from bench.runs import Run
from tests.unit.bench.results import bare_of, result_of, run_of


def results_of(*runs: Run) -> Results:
    results = Results("python -m bench.run", store="9.9.9", load_before=0.5)
    for run in runs:
        results.runs.setdefault(run.case, []).append(run)
    return results


def rows_of(text: str, name: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return [row for row in rows if row and row[0].strip("*") == name]


def test_report_shows_every_run_and_marks_the_best() -> None:
    # When
    runs = [
        run_of("fixed_window", number, server_us=us) for number, us in ((1, 14), (2, 12), (3, 13))
    ]
    rows = rows_of(to_text(results_of(*runs)), "fixed_window")

    # Then
    assert [row[1] for row in rows] == ["1", "2", "3"]
    assert [row[0] for row in rows] == ["fixed_window", "**fixed_window**", "fixed_window"]
    assert rows[1][2:10] == ["1,000", "1.00", "1.00", "1.00", "1.00", "12.0", "5.0", "12.5"]


def test_report_names_machine_commit_command_and_store() -> None:
    text = to_text(results_of())
    for start in ("- machine: ", "- commit: ", "- command: `python -m bench.run`", "- versions: "):
        assert start in text
    assert "store 9.9.9" in text


def test_report_says_why_a_case_has_no_figures() -> None:
    results = results_of()
    results.notes["gcra"] = "not built yet"
    text = to_text(results)
    (row,) = rows_of(text, "gcra")
    assert set(row[1:]) == {""}
    assert "- `gcra`: gcra instead of fixed_window; not built yet" in text
    assert "workers_2" not in text


def test_report_says_what_an_open_loop_was_asked_for() -> None:
    text = to_text(results_of(run_of("open_50", rate=12_345.6)))
    assert "12,346/s asked for" in text


def test_report_names_errors_and_refusals() -> None:
    result = result_of(over_limit=990, errors={"status 4": 7})
    text = to_text(results_of(run_of("denied", result=result)))
    assert rows_of(text, "denied")[0][-1] == "7 status 4"
    assert "99.0% of the answers were OVER_LIMIT" in text


def test_report_holds_figures_against_their_bounds() -> None:
    text = to_text(results_of(run_of("fixed_window", server_us=16)))
    (row,) = rows_of(text, "CPU per decision of the server, fixed_window")
    assert row[1:] == ["16.00 us", "at most 15 us", "**no**"]


def test_report_has_the_store_alone() -> None:
    results = results_of()
    results.bare["bare_one"] = [bare_of("bare_one", 0.05)]
    (row,) = rows_of(to_text(results), "bare_one")
    assert row[1:4] == ["1", "1,000", "0.050"]


def test_line_of_a_run_tells_its_first_error() -> None:
    line = to_line(run_of("echo"))
    assert line.startswith("case echo, run 1, decisions/s 1,000, p50 ms 1.00")
    assert "KiB/conn" not in line


def test_plots_are_written_for_what_ran(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = results_of(run_of("fixed_window"), run_of("fixed_window", 2), run_of("tls")).runs
    files = plots.write_plots(runs, tmp_path)
    assert [file.name for file in files] == [plots.LATENCY, plots.CPU]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    assert plots.write_plots({}, tmp_path) == []
