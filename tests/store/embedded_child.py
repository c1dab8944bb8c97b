"""A daemon in miniature: holds an embedded store, tells its pid, and waits to be ended.

python -m tests.store.embedded_child DATA_DIR     prints "PID SOCKET" once the store answers
"""

import asyncio
import sys
from pathlib import Path

from ratelimitd.errors import ConfigError
from ratelimitd.store.embedded import start_embedded


async def main(data_dir: Path) -> None:
    """Hold the store until stdin closes."""
    try:
        server = await start_embedded(data_dir)
    except ConfigError as error:
        sys.exit(str(error))
    print(server.pid, server.files.socket, flush=True)  # noqa: T201 - how the test learns it
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
