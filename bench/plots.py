"""Two pictures of the results: latency by percentile, and CPU per decision."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.cases import CASES
from bench.runs import Run, best

DIRECTORY = Path(__file__).with_name("plots")
LATENCY, CPU = "latency.png", "cpu-per-decision.png"
# What the latency picture shows, of those that ran: more lines than this nobody can tell apart.
_LATENCY_CASES = ("in_flight_1", "in_flight_8", "fixed_window", "open_50", "fleet_50", "grpcio")
_NINES = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)
_SIZE_IN = (9.0, 5.0)
_DPI = 120


def write_plots(runs: Mapping[str, Sequence[Run]], directory: Path = DIRECTORY) -> list[Path]:
    """Write what there is to see and return the files; nothing without matplotlib."""
    shown = {case.name: best(runs[case.name]) for case in CASES if runs.get(case.name)}
    try:
        matplotlib = import_module("matplotlib")
    except ImportError:
        return []
    if not shown:
        return []
    matplotlib.use("Agg")
    pyplot = import_module("matplotlib.pyplot")
    directory.mkdir(parents=True, exist_ok=True)
    files = [_write_cpu(pyplot, shown, directory / CPU)]
    timed = [shown[name] for name in _LATENCY_CASES if name in shown]
    if timed:
        files.insert(0, _write_latency(pyplot, timed, directory / LATENCY))
    return files


def _write_latency(pyplot: Any, runs: Sequence[Run], path: Path) -> Path:
    figure, axes = pyplot.subplots(figsize=_SIZE_IN)
    for run in runs:
        # One in so many calls is slower; the axis gives each nine the same room.
        nines = [1 / (1 - share) for share in _shares()]
        axes.plot(nines, [run.latency_ms(share) for share in _shares()], label=run.case)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = [1 / (1 - share) for share in _NINES]
    axes.set_xticks(ticks, [f"{share:.2%}".rstrip("0").rstrip(".%") + "%" for share in _NINES])
    axes.minorticks_off()
    axes.set_xlabel("percentile of calls")
    axes.set_ylabel("latency, ms")
    axes.set_title("Latency")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    return _save(pyplot, figure, path)


def _write_cpu(pyplot: Any, shown: Mapping[str, Run], path: Path) -> Path:
    figure, axes = pyplot.subplots(figsize=(_SIZE_IN[0], 1.5 + 0.3 * len(shown)))
    names = list(shown)[::-1]
    server = [shown[name].server_us for name in names]
    store = [shown[name].store_us for name in names]
    axes.barh(names, server, label="server", color="#4c72b0")
    axes.barh(names, store, left=server, label="store", color="#dd8452")
    axes.set_xlabel("CPU for one decision, us")
    axes.set_title("CPU per decision")
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.legend()
    return _save(pyplot, figure, path)


def _save(pyplot: Any, figure: Any, path: Path) -> Path:
    figure.tight_layout()
    # Without a date and a version in it, an equal picture is an equal file.
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    pyplot.close(figure)
    return path


def _shares() -> list[float]:
    """Return percentiles that are evenly spread over the nines."""
    return [1 - 10 ** (-step / 10) for step in range(41)]
