"""One load process: `python -m bench.load SPEC` prints "ready", waits for "go", prints a result."""

import asyncio
import gc
import sys

import uvloop

from bench.load.drive import drive
from bench.load.spec import LoadResult, StoreSpec, spec_from_json
from bench.load.store import drive_store

# Beyond the load's own time: connecting, draining, and waiting for the word.
SPARE_S = 120.0


async def _main(text: str) -> LoadResult:
    spec = spec_from_json(text)
    async with asyncio.timeout(spec.seconds + SPARE_S):
        return await (drive_store(spec) if isinstance(spec, StoreSpec) else drive(spec))


if __name__ == "__main__":
    # A run is short and its garbage has no cycles; a collection would be in somebody's latency.
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(_main(sys.argv[1])).to_json(), flush=True)
