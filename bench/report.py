"""RESULTS.md: the machine, the commit, the command, every run, and what the figures say."""

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from bench.cases import BARE, BARE_KEYS, CASES, Case
from bench.ratios import Ratio, make_ratios
from bench.runs import SHARES, BareRun, Run, best

HEAD = (
    "case",
    "run",
    "decisions/s",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "p99.9 ms",
    "server us",
    "store us",
    "checks/batch",
    "RSS MB",
    "KiB/conn",
    "B/key",
    "busy % server/store/load",
    "limit",
    "errors",
)
BARE_HEAD = (
    "case",
    "run",
    "decisions/s",
    "p50 ms",
    "p99 ms",
    "client us",
    "store us",
)
RATIO_HEAD = ("figure", "measured", "wanted", "holds")

_INTRODUCTION = """\
# Results

Written by `make bench`. Client, server and store share the machine, so compare runs of one machine
only. `us` is user plus system time for one decision, of whole process trees, from /proc; the server
is the whole daemon. Latencies of a closed loop are what a caller waits at the full load that it can
make; of an open loop they count from the instant a call was due. `limit` is the part that had no
CPU to spare. `KiB/conn` is what a connection added to the memory of the daemon. Bold is the best
run: the least CPU per decision, in an open loop the lowest p99."""


@dataclass(slots=True)
class Results:
    """Everything that a run of the program found out."""

    command: str
    store: str = ""
    load_before: float = 0.0
    runs: dict[str, list[Run]] = field(default_factory=dict)
    bare: dict[str, list[BareRun]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    pins: dict[str, str] = field(default_factory=dict)


def to_text(results: Results, plots: Sequence[str] = ()) -> str:
    """Return the page."""
    parts = [_INTRODUCTION, "\n".join(_facts(results))]
    ratios = make_ratios(results.runs, results.bare)
    if ratios:
        parts += ["## What we want, and what was measured", _table(RATIO_HEAD, _rated(ratios))]
    parts += [f"![{Path(name).stem}]({name})" for name in plots]
    for section in dict.fromkeys(case.section for case in CASES):
        cases = [case for case in CASES if case.section == section]
        parts += _section(section, cases, results)
    if results.bare:
        parts.append(f"## The store alone, on one connection, {BARE_KEYS:,} keys, zipf")
        rows = [row for case in BARE for row in _bare_rows(results.bare.get(case.name, ()))]
        parts.append(_table(BARE_HEAD, rows))
        parts.append("\n".join(f"- `{case.name}`: {case.about}" for case in BARE))
    return "\n\n".join(parts) + "\n"


def to_line(run: Run | BareRun) -> str:
    """Return one run as a line for people."""
    if isinstance(run, BareRun):
        pairs = zip(BARE_HEAD, _bare_cells(run), strict=True)
    else:
        pairs = zip(HEAD, _cells(run), strict=True)
    line = ", ".join(f"{name} {cell}" for name, cell in pairs if cell != "-")
    return f"{line} ({run.result.first_error})" if run.result.first_error else line


def to_ratio_lines(ratios: Sequence[Ratio]) -> list[str]:
    """Return the figures as lines for people."""
    return [", ".join(row) for row in _rated(ratios)]


def _section(title: str, cases: Sequence[Case], results: Results) -> list[str]:
    rows: list[tuple[str, ...]] = []
    about: list[str] = []
    for case in cases:
        note = results.notes.get(case.name, "")
        runs = results.runs.get(case.name, [])
        if not runs and not note:
            continue
        chosen = best(runs) if runs else None
        rows += [_cells(run, is_best=run is chosen) for run in runs]
        if not runs:
            rows.append((case.name, *("" for _ in HEAD[1:])))
        about.append(f"- `{case.name}`: {case.about}{_rate_text(runs)}{_denied_text(runs)}")
        if note:
            about[-1] += f"; {note}"
    if not rows:
        return []
    return [f"## {title}", _table(HEAD, rows), "\n".join(about)]


def _rate_text(runs: Sequence[Run]) -> str:
    """Return what an open loop was asked for, how late we sent, and how even processes worked."""
    text = ""
    if runs and runs[0].rate:
        late_ms = max(run.result.lag.percentile_ns(0.99) for run in runs) / 1e6
        text += f"; {runs[0].rate:,.0f}/s asked for, the load itself late by p99 {late_ms:.2f} ms"
    if runs and len(shares := [share for share in runs[-1].process_shares if share > 0.05]) > 1:
        text += "; CPU of the daemon's processes " + " / ".join(f"{share:.0%}" for share in shares)
    return text


def _denied_text(runs: Sequence[Run]) -> str:
    answered = sum(run.result.answered for run in runs)
    over = sum(run.result.over_limit for run in runs)
    return f"; {over / answered:.1%} of the answers were OVER_LIMIT" if over else ""


def _cells(run: Run, *, is_best: bool = False) -> tuple[str, ...]:
    """Return the row of the table."""
    has_latency = run.result.latency.max_ns > 0
    name = f"{run.case} ({run.tool})" if run.tool else run.case
    return (
        f"**{name}**" if is_best else name,
        str(run.number),
        f"{run.decisions_per_s:,.0f}",
        *(f"{run.latency_ms(share):.2f}" if has_latency else "-" for share in SHARES),
        f"{run.server_us:.1f}",
        f"{run.store_us:.1f}",
        f"{run.checks_per_batch:.1f}" if run.checks_per_batch else "-",
        f"{run.rss_bytes / 2**20:.0f}",
        "-" if run.connection_bytes is None else f"{run.connection_bytes / 1024:.1f}",
        "-" if run.store_bytes_per_key is None else f"{run.store_bytes_per_key:.0f}",
        " / ".join(f"{share:.0%}".removesuffix("%") for share in run.busy()),
        run.limited_by(),
        _errors(run),
    )


def _errors(run: Run) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in run.result.errors.items()) or "0"


def _bare_rows(runs: Sequence[BareRun]) -> list[tuple[str, ...]]:
    return [_bare_cells(run) for run in runs]


def _bare_cells(run: BareRun) -> tuple[str, ...]:
    latency = run.result.latency
    return (
        run.name,
        str(run.number),
        f"{run.decisions_per_s:,.0f}",
        f"{latency.percentile_ns(0.5) / 1e6:.3f}",
        f"{latency.percentile_ns(0.99) / 1e6:.3f}",
        f"{run.client_us:.1f}",
        f"{run.store_us:.1f}",
    )


def _rated(ratios: Sequence[Ratio]) -> list[tuple[str, ...]]:
    return [
        (
            ratio.text,
            f"{ratio.value:.2f}{ratio.unit}",
            f"{'at most' if ratio.is_at_most else 'at least'} {ratio.bound:g}{ratio.unit}",
            "yes" if ratio.holds else "**no**",
        )
        for ratio in ratios
    ]


def _facts(results: Results) -> list[str]:
    """Return what a reader needs to compare: machine, versions, commit, command."""
    python = platform.python_version()
    names = ("uvloop", "grpcio", "redis", "hiredis", "protobuf")
    libraries = ", ".join(f"{name} {version(name)}" for name in names)
    return [
        f"- machine: {machine()}",
        f"- versions: CPython {python}, {libraries}, store {results.store}",
        f"- load average before the run: {results.load_before:.1f}",
        f"- commit: {commit()}",
        f"- command: `{results.command}`",
        *(f"- cores, {name}: {text}" for name, text in results.pins.items()),
    ]


def machine() -> str:
    """Return what figures depend on most."""
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{_cpu_model()}, {os.cpu_count()} cores, Linux {kernel}"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def commit() -> str:
    """Return the commit, and whether the tree differs from it."""
    here = Path(__file__).parent
    commit = _git(here, "rev-parse", "--short", "HEAD") or "unknown"
    changed = _git(here, "status", "--porcelain", "--", "../ratelimitd", "../lua")
    return f"{commit} with local changes" if changed else commit


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=directory, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [head, *rows]
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
