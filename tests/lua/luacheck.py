"""luacheck over every script as the store gets it: with its includes in place. `make lua-check`."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ratelimitd.store.scripts import load_script, lua_directory

GLOBALS = ("redis", "struct", "KEYS", "ARGV")


def main() -> int:
    """Check all entry scripts; without luacheck this skips, and fails where CI is set."""
    program = shutil.which("luacheck")
    if program is None:
        print("luacheck is missing; on Debian: apt install lua-check", file=sys.stderr)  # noqa: T201
        return 1 if os.environ.get("CI") else 0
    directory = lua_directory()
    with tempfile.TemporaryDirectory(prefix="luacheck-") as expanded:
        for path in sorted(directory.glob("*.lua")):
            (Path(expanded) / path.name).write_bytes(load_script(directory, path.stem).text)
        return subprocess.run(
            [
                program,
                expanded,
                "--std",
                "lua51",
                "--read-globals",
                *GLOBALS,
                "--max-line-length",
                "110",
                "--quiet",
                # A script includes a library whole, and need not use all of it.
                "--ignore",
                "211/batch",
            ],
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
