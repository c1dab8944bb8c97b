"""The differences that docs/data-planes.md explains."""

from functools import cache
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "data-planes.md"


@cache
def documented_rows() -> frozenset[str]:
    """Return what is sent, as the first column of the table has it."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    return frozenset(line.split("|")[1].strip() for line in lines[1:])
