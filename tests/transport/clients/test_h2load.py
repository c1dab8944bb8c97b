"""h2load, of nghttp2: another HTTP/2 client, which sends as fast as it may."""

import re
import subprocess
from pathlib import Path

from tests.support.children import wait_for
from tests.support.daemon import Daemon
from tests.support.grpc_client import METHOD, rate_limit_request
from tests.support.programs import find_program
from tests.transport.h2.peer import message

CALLS = 4000
RUN_TIMEOUT_S = 60


def counted(daemon: Daemon) -> int:
    """Return how many calls were good, as metrics have it."""
    series = 'ratelimitd_calls_total{code="OK",method="ShouldRateLimit"} '
    lines = [line for line in daemon.metrics().splitlines() if line.startswith(series)]
    return sum(int(float(line.removeprefix(series))) for line in lines)


def test_h2load_gets_an_answer_to_each_call(daemon: Daemon, tmp_path: Path) -> None:
    h2load = find_program("h2load", "call with; it is in Debian's nghttp2-client")
    body = tmp_path / "body"
    body.write_bytes(message(rate_limit_request("api", "open=x").SerializeToString()))
    command = [
        *(h2load, "-n", str(CALLS), "-c", "8", "-m", "50", "-d", str(body)),
        *("-H", "content-type: application/grpc", "-H", "te: trailers"),
        f"http://{daemon.grpc_address}{METHOD}",
    ]
    before = counted(daemon)
    # when
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=RUN_TIMEOUT_S
    )
    # then; it looks at HTTP's statuses only, so we ask the daemon too
    assert f"{CALLS} succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout
    assert re.search(rf"status codes: {CALLS} 2xx", done.stdout)
    wait_for(lambda: counted(daemon) - before == CALLS, "all calls to be counted")
