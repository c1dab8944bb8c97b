"""`make bench`: decisions per second, latency and CPU per decision, of the real daemon.

Everything runs on loopback and on private stores; children are ended by their own pids.
`--only fixed_window --seconds 3 --runs 1` measures one case in a few seconds and writes nothing.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import decisions, h2load, plots, proc, report
from bench.cases import CASES, BareCase, Case, ServerSpec, listing, select
from bench.daemons import Served, abilities, serving
from bench.measure import Plan, measure, measure_bare, measure_h2load
from bench.pins import Pins, our_cores, plan_pins
from bench.ratios import make_ratios
from bench.report import Results
from bench.runs import Run, peak
from bench.stores import Store, running_cluster, running_store

RESULTS = Path(__file__).with_name("RESULTS.md")
CLUSTER_NODES = 3
FAILURES = (OSError, RuntimeError, AssertionError, ValueError, subprocess.SubprocessError)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the selected cases, print each run, and write the results if all were selected."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    if options.list:
        for name, about in listing():
            print(f"{name:20} {about}")
        return
    bare, cases = select(options.only)
    proc.allow_files()
    command = shlex.join(["python", "-m", "bench.run", *given])
    results = Results(command, load_before=os.getloadavg()[0])
    with (
        tempfile.TemporaryDirectory(prefix="ratelimitd-bench-") as name,
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            transient=True,
        ) as progress,
    ):
        bench = _Bench(options, results, progress, Path(name))
        bench.run(bare, cases)
    _finish(options, results)
    if any(note.startswith("failed") for note in results.notes.values()):
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--only", default="", help="names of cases, with *, comma-separated")
    parser.add_argument("--list", action="store_true", help="print the cases and end")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a run")
    parser.add_argument("--runs", type=int, default=3, help="runs of each case")
    parser.add_argument("--processes", type=int, default=0, help="load processes; 0: by cores")
    parser.add_argument("--output", type=Path, help="where to write; needed with --only")
    return parser


def _finish(options: argparse.Namespace, results: Results) -> None:
    """Print what it came to, and write it down."""
    for line in report.to_ratio_lines(make_ratios(results.runs, results.bare)):
        print(line)
    output = options.output or (None if options.only else RESULTS)
    if output is None:
        return
    files = plots.write_plots(results.runs, output.parent / "plots")
    if not files:
        print("no plots: nothing ran, or matplotlib is missing")
    text = report.to_text(results, [f"plots/{file.name}" for file in files])
    output.write_text(text, "utf-8")
    print(f"written: {output}")


class _Bench:
    """One run of the program: what was asked, what is known so far, and the progress shown."""

    def __init__(
        self, options: argparse.Namespace, results: Results, progress: Progress, directory: Path
    ) -> None:
        self._options = options
        self._results = results
        self._progress = progress
        self._directory = directory
        self._cores = our_cores()
        self._policy = decisions.load_policy()
        self._empty_bytes = 0

    def run(self, bare: Sequence[BareCase], cases: Sequence[Case]) -> None:
        """Measure the store alone first, while it is small; then one daemon after the other."""
        task = self._progress.add_task("cases", total=len(bare) + len(cases))
        with running_store(
            self._directory / "store", plan_pins(self._cores, workers=1).store
        ) as one:
            self._results.store = one.name
            self._empty_bytes = one.used_memory()
            for case in bare:
                self._bare(case, one)
                self._progress.advance(task)
            for server, group in groupby(cases, key=lambda case: case.server):
                wanted = [case for case in group if self._can_run(case)]
                if wanted:
                    self._group(server, wanted, one)
        self._progress.update(task, completed=len(bare) + len(cases))

    def _can_run(self, case: Case) -> bool:
        reason = abilities().missing_for(case.server)
        if not reason and not proc.can_open(case.connections):
            reason = f"skipped: {case.connections:,} connections need more open files (ulimit -n)"
        if reason:
            self._note(case, reason)
        return not reason

    def _group(self, server: ServerSpec, cases: Sequence[Case], store: Store) -> None:
        """Run the cases of one daemon; what fails is a line of the report."""
        try:
            with self._served(server, store) as served:
                for case in cases:
                    self._case(case, served)
        except FAILURES as error:
            for case in cases:
                if case.name not in self._results.runs:
                    self._note(case, f"failed: {str(error).splitlines()[0]}")
            self._say(_told(error))

    @contextmanager
    def _served(self, server: ServerSpec, store: Store) -> Iterator[Served]:
        nodes = CLUSTER_NODES if server.on_cluster else 1
        pins = plan_pins(self._cores, workers=server.workers, nodes=nodes)
        name = f"{server.workers} workers" + (", Cluster" if server.on_cluster else "")
        self._results.pins[name] = pins.to_text()
        with tempfile.TemporaryDirectory(dir=self._directory) as directory, ExitStack() as stack:
            if server.on_cluster:
                cluster = running_cluster(Path(directory) / "cluster", pins.store)
                store = stack.enter_context(cluster)
            daemon = serving(server, store, Path(directory) / "daemon", pins)
            yield stack.enter_context(daemon)

    def _case(self, case: Case, served: Served) -> None:
        self._fill(case, served.store)
        rate = self._rate(case, served)
        if rate is None:
            return
        plan = self._plan(served.pins)
        for run in measure(case, served, plan, rate):
            self._keep(case, run)
        if case.has_h2load and h2load.is_installed():
            for run in measure_h2load(case, served, plan):
                self._keep(case, run)
        elif case.has_h2load:
            self._note(case, "h2load is not installed (Debian: nghttp2-client)")

    def _bare(self, case: BareCase, store: Store) -> None:
        pins = plan_pins(self._cores, workers=1)
        for run in measure_bare(case, store, pins, self._plan(pins)):
            self._results.bare.setdefault(case.name, []).append(run)
            self._say(report.to_line(run))

    def _rate(self, case: Case, served: Served) -> float | None:
        """Return the rate of an open loop, 0 for a closed one, None if it is beyond the server."""
        if not case.is_open:
            return 0.0
        runs = self._results.runs.get(case.peak_of)
        if not runs:
            named = next(one for one in CASES if one.name == case.peak_of)
            self._say(f"{case.name}: looking for the peak of {named.name}")
            plan = Plan(min(self._options.seconds, 2.0), 1, self._plan(served.pins).processes)
            runs = list(measure(named, served, plan))
        limit = case.share * peak(runs)
        if case.rate > limit:
            self._note(case, f"skipped: {case.rate:,.0f}/s is over {case.share:.0%} of the peak")
            return None
        return case.rate or limit

    def _plan(self, pins: Pins) -> Plan:
        cores = len(pins.load) if pins.load else 1
        processes = self._options.processes or cores
        return Plan(self._options.seconds, self._options.runs, processes, self._empty_bytes)

    def _fill(self, case: Case, store: Store) -> None:
        """Have a counter for each key before the run, so that the store is as large as it says."""
        if store.client is None or store.key_count() >= case.keys:
            return
        task = self._progress.add_task(f"filling {case.keys:,} keys", total=case.keys)
        for done in decisions.fill(store.client, self._policy, case.keys):
            self._progress.update(task, completed=done)
        self._progress.remove_task(task)

    def _keep(self, case: Case, run: Run) -> None:
        self._results.runs.setdefault(case.name, []).append(run)
        self._say(report.to_line(run))

    def _note(self, case: Case, text: str) -> None:
        self._results.notes[case.name] = text
        self._say(f"{case.name}: {text}")

    def _say(self, text: str) -> None:
        self._progress.console.print(text, soft_wrap=True, markup=False, highlight=False)


def _told(error: BaseException) -> str:
    """Return an error with its notes, each once: what a child printed stands in many of them."""
    text = str(error)
    for note in getattr(error, "__notes__", ()):
        if note not in text:
            text += f"\n{note}"
    return text


if __name__ == "__main__":
    main()
