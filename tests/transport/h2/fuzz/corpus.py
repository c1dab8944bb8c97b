"""The cases that are kept in corpus/: all that ever broke a rule, here or in a connection that was
broken on purpose, and a few that show much.

A file's name is what the case broke, or the beginning of its digest.
"""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from tests.transport.h2.fuzz.case import Case, from_bytes, to_bytes
from tests.transport.h2.fuzz.play import Feature, play

CORPUS = Path(__file__).with_name("corpus")
MAX_BYTES = 200_000


def read_corpus() -> dict[str, Case]:
    """Return the cases that are kept, by their names."""
    return {path.name: from_bytes(path.read_bytes()) for path in sorted(CORPUS.glob("*.case"))}


def keep(cases: Iterable[Case]) -> int:
    """Write those of `cases` that are not kept yet; return how many."""
    written = 0
    for case in cases:
        text = to_bytes(case)
        file = CORPUS / f"{sha256(text).hexdigest()[:12]}.case"
        if not file.exists():
            file.write_bytes(text)
            written += 1
    return written


def distil(cases: Iterable[Case], max_bytes: int) -> list[Case]:
    """Return small ones of `cases` that show what all together do, as far as they fit."""
    kept: list[Case] = []
    seen: set[Feature] = set()
    size = 0
    for case in sorted(cases, key=lambda each: len(to_bytes(each))):
        # Behaviours without the state around them; with it there are thousands.
        shown = {feature[:3] for feature in play(case)}
        length = len(to_bytes(case))
        if not shown <= seen and size + length <= max_bytes:
            seen |= shown
            kept.append(case)
            size += length
    return kept
