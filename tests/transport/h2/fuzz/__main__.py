"""`python -m tests.transport.h2.fuzz`: play cases against the HTTP/2 connection for some time.

Ends with 1 and a file when a case breaks a rule; `--replay FILE` plays that file again. A case that
was found belongs into corpus/, under a name that says what it broke. `--keep` adds those that show
something that the corpus does not show yet.
"""

import argparse
import resource
import sys
import time
from pathlib import Path
from random import Random, SystemRandom

from tests.transport.h2.fuzz.case import from_bytes, to_bytes
from tests.transport.h2.fuzz.corpus import CORPUS, MAX_BYTES, distil, keep, read_corpus
from tests.transport.h2.fuzz.play import play
from tests.transport.h2.fuzz.search import Found, Search

_PROGRAM = "python -m tests.transport.h2.fuzz"
_REPORT_S = 10.0


def main() -> int:
    """Do what the command line says; return the exit code."""
    options = _parser().parse_args()
    if options.replay is not None:
        play(from_bytes(options.replay.read_bytes()))
        print(f"{options.replay}: no rule is broken")
        return 0
    search = Search(Random(options.seed))
    print(f"--seed {options.seed}, {options.minutes:g} minutes")
    try:
        search.add_known(read_corpus().values())
        _run(search, options.minutes * 60)
    except Found as found:
        options.out.mkdir(parents=True, exist_ok=True)
        file = options.out / f"found-{options.seed}-{search.played}.case"
        file.write_bytes(to_bytes(found.case))
        print(f"broken: {found}\nreplay: {_PROGRAM} --replay {file}")
        return 1
    print(f"no rule was broken in {search.played:,} cases")
    if options.keep:
        chosen = distil(search.cases, MAX_BYTES)
        print(f"{keep(chosen):,} cases are new in {CORPUS}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(2**32))
    parser.add_argument("--out", type=Path, default=Path(".ratelimitd/fuzz"))
    parser.add_argument("--keep", action="store_true", help="add what was learned to the corpus")
    parser.add_argument("--replay", type=Path, help="play one case and end")
    return parser


def _run(search: Search, seconds: float) -> None:
    """Play cases until `seconds` have passed, and tell about it now and then."""
    start_s = time.monotonic()
    report_s = start_s + _REPORT_S
    while (now_s := time.monotonic()) < start_s + seconds:
        search.step()
        if now_s >= report_s:
            report_s += _REPORT_S
            peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{now_s - start_s:4.0f} s  {search.played:9,} cases  {len(search.cases):6,} kept"
                f"  {len(search.features):7,} behaviours  {peak_mb:4.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
