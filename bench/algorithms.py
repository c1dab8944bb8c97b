"""`python -m bench.algorithms` draws docs/plots: what each algorithm admits of the same traffic.

It starts a private store, asks its script with time passed in, and needs matplotlib.
"""

import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.stores import running_store
from bench.traffic import (
    BURST,
    CALLS_A_SECOND,
    DAILY,
    HOUR_US,
    LIMIT,
    SILENT_US,
    US_PER_S,
    ZONE,
    Asker,
    Occupancy,
    Traffic,
    counted_in,
    in_days,
    in_flight,
    in_windows,
    midnights_us,
)
from tests.support.scripted import ScriptedStore

DIRECTORY = Path(__file__).resolve().parents[1] / "docs" / "plots"
# The algorithm, its bound in any second, what is said of it.
WINDOWS = (
    ("fixed_window", 2 * LIMIT, f"2 x {LIMIT} across a border"),
    ("sliding_window", 2 * LIMIT, f"{LIMIT} and {LIMIT} a second"),
    ("gcra", BURST + LIMIT, f"burst {BURST} and {LIMIT} a second"),
)
BIN_US = US_PER_S // 10
STEP_US = US_PER_S // 50
CALLS_IN_FLIGHT = CALLS_A_SECOND
OFFERED, ADMITTED, BOUND, OTHER = "#c8c8c8", "#4c72b0", "#c44e52", "#dd8452"
_SIZE_IN = (9.0, 4.6)
_DPI = 100


def draw(directory: Path = DIRECTORY) -> list[Path]:
    """Ask a store of our own, and return the pictures that were written."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot = import_module("matplotlib.pyplot")
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, running_store(Path(scratch)) as store:
        assert store.client is not None
        asker = Asker(ScriptedStore(store.client))
        files = []
        for algorithm, bound, about in WINDOWS:
            traffic = in_windows(asker, algorithm)
            path = directory / f"{algorithm}.png"
            files.append(_draw_windows(pyplot, traffic, bound, about, path))
        files.append(_draw_days(pyplot, in_days(asker), directory / "calendar.png"))
        by_name = in_flight(asker, has_slots=True)
        nameless = in_flight(asker, has_slots=False)
        files.append(_draw_calls(pyplot, by_name, nameless, directory / "concurrency.png"))
    return files


def _draw_windows(pyplot: Any, traffic: Traffic, bound: int, about: str, path: Path) -> Path:
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=_SIZE_IN)
    _bars(above, traffic, BIN_US, US_PER_S)
    above.set_ylabel("requests in 0.1 s")
    above.set_title(f"{path.stem}: {LIMIT} per second")
    times_us = range(traffic.start_us, traffic.start_us + traffic.length_us, STEP_US)
    below.plot(
        [(at_us - traffic.start_us) / US_PER_S for at_us in times_us],
        [counted_in(traffic.admitted_us, US_PER_S, at_us) for at_us in times_us],
        color=ADMITTED,
        label="admitted in the last second",
    )
    below.axhline(LIMIT, color="grey", linestyle=":", label=f"limit {LIMIT}")
    below.axhline(bound, color=BOUND, linestyle="--", label=f"at most: {about}")
    below.set_ylim(0, 2 * LIMIT + 2)
    below.set_xlabel("seconds; windows begin at whole ones")
    return _save(pyplot, figure, path)


def _draw_days(pyplot: Any, traffic: Traffic, path: Path) -> Path:
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=_SIZE_IN)
    _bars(above, traffic, HOUR_US, HOUR_US)
    above.set_ylabel("requests in an hour")
    above.set_title(f"calendar: {DAILY} per day, {ZONE}, over a day of 25 hours")
    hours = [(at_us - traffic.start_us) / HOUR_US for at_us in traffic.offered_us]
    below.plot(hours, traffic.counts, color=ADMITTED, label="admitted in this local day")
    below.axhline(DAILY, color=BOUND, linestyle="--", label=f"limit {DAILY}")
    borders = [(at_us - traffic.start_us) / HOUR_US for at_us in midnights_us()]
    for axes in (above, below):
        for at in borders:
            axes.axvline(at, color="grey", linestyle=":")
    for begin, end in pairwise(borders):
        below.text((begin + end) / 2, 8, f"{end - begin:.0f} hours", ha="center", color="grey")
    below.set_ylim(0, DAILY * 1.1)
    below.set_xlabel("hours; dotted: midnight there")
    return _save(pyplot, figure, path)


def _draw_calls(pyplot: Any, by_name: Occupancy, nameless: Occupancy, path: Path) -> Path:
    figure, panels = pyplot.subplots(2, 1, sharex=True, figsize=_SIZE_IN)
    titles = ("concurrency with slot: 10 in flight", "without slot")
    for axes, occupancy, title in zip(panels, (by_name, nameless), titles, strict=True):
        seconds = [(at_us - occupancy.start_us) / US_PER_S for at_us in occupancy.at_us]
        axes.step(seconds, occupancy.held, where="post", color=OTHER, lw=3, label="places held")
        axes.step(seconds, occupancy.in_flight, where="post", color=ADMITTED, label="in flight")
        axes.axhline(LIMIT, color=BOUND, linestyle="--", label=f"limit {LIMIT}")
        axes.axhline(CALLS_IN_FLIGHT, color=OFFERED, label="in flight without a limit")
        silent = [at_us / US_PER_S for at_us in SILENT_US]
        axes.axvspan(*silent, color="grey", alpha=0.15, label="releases lost")
        axes.set_ylim(0, 2 * LIMIT + 2)
        axes.set_title(title)
    panels[-1].set_xlabel("seconds; every call lasts one, a place frees itself after two")
    return _save(pyplot, figure, path)


def _bars(axes: Any, traffic: Traffic, bin_us: int, unit_us: int) -> None:
    width = bin_us / unit_us
    for times_us, color, label in (
        (traffic.offered_us, OFFERED, "offered"),
        (traffic.admitted_us, ADMITTED, "admitted"),
    ):
        counts = _binned(times_us, traffic.start_us, bin_us)
        axes.bar(
            [at * width for at in counts],
            counts.values(),
            width,
            align="edge",
            color=color,
            label=label,
        )


def _binned(times_us: Sequence[int], start_us: int, bin_us: int) -> Counter[int]:
    return Counter((at_us - start_us) // bin_us for at_us in times_us)


def _save(pyplot: Any, figure: Any, path: Path) -> Path:
    for axes in figure.axes:
        axes.grid(visible=True, alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)
    figure.tight_layout()
    # Without a date and a version in it, an equal picture is an equal file.
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    pyplot.close(figure)
    return path


if __name__ == "__main__":
    for written in draw():
        print(written)
