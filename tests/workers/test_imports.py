"""What a worker must not import, looked at in a process that composes one."""

import json
import subprocess
import sys

from ratelimitd.workers.main import NOT_IN_WORKERS

LOOK = """
import json, sys
for name in sys.argv[1:]:
    sys.modules[name] = None
import ratelimitd.workers.main, ratelimitd.app.worker
print(json.dumps(sorted(name for name, module in sys.modules.items() if module is not None)))
"""


def test_worker_can_be_composed_without_what_it_does_not_need() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LOOK, *NOT_IN_WORKERS],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert ended.returncode == 0, ended.stderr
    packages = {name.partition(".")[0] for name in json.loads(ended.stdout)}
    assert "uvloop" in packages
    assert packages.isdisjoint({*NOT_IN_WORKERS, "grpc_reflection", "locust", "watchfiles"})
