"""h2spec's generic, http2 and hpack suites against the server: a Go tool, pinned in h2spec/go.mod.

It is built where Go is installed. Its cases speak of RFC 7540; those that RFC 9113 departs from are
DEPARTED. None of them is wrong in RFC 9113, so every case is expected to pass.
"""

import asyncio
import os
import shutil
import socket
import subprocess
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ratelimitd.transport.h2.connection import Call
from ratelimitd.transport.h2.link import Link
from ratelimitd.transport.h2.server import Server

PIN = Path(__file__).parent / "h2spec"
BUILD_TIMEOUT_S = 300
RUN_TIMEOUT_S = 120
ANSWER_TIMEOUT_S = 3
CASES = 145
# RFC 9113 took out the priority of streams (5.3), and with it what a stream that depends on itself
# is; we go on refusing it, as it may. Frames of that kind must still have their length (6.3).
DEPARTED = {
    ("http2/5.3.1", "Sends HEADERS frame that depend on itself"),
    ("http2/5.3.1", "Sends PRIORITY frame that depend on itself"),
}


@pytest.fixture(scope="module")
def h2spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    go = shutil.which("go")
    if go is None:
        if os.environ.get("CI"):
            pytest.fail("CI installs Go to build h2spec; it is missing")
        pytest.skip("no Go to build h2spec with")
    program = tmp_path_factory.mktemp("h2spec") / "h2spec"
    built = subprocess.run(
        [go, "build", "-o", str(program), "github.com/summerwind/h2spec/cmd/h2spec"],
        cwd=PIN,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return program


async def test_server_passes_h2spec(h2spec: Path, tmp_path: Path) -> None:
    # given
    def on_calls(link: Link, calls: list[Call]) -> None:
        for stream_id, _, body in calls:
            link.answer_all([(stream_id, body)])

    server = Server({b"/echo": "echo"}, on_calls)
    listener = socket.create_server(("127.0.0.1", 0))
    await server.listen(listener)
    report = tmp_path / "report.xml"
    # when
    process = await asyncio.create_subprocess_exec(
        *(str(h2spec), "-h", "127.0.0.1", "-p", str(listener.getsockname()[1])),
        *("-o", str(ANSWER_TIMEOUT_S), "-j", str(report)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    async with asyncio.timeout(RUN_TIMEOUT_S):
        output, _ = await process.communicate()
    await server.stop(0)
    # then
    cases = list(ET.parse(report).iter("testcase"))
    results = Counter(
        "failed" if case.find("failure") is not None or case.find("error") is not None else "passed"
        for case in cases
    )
    assert results == {"passed": CASES}, output.decode()[-3000:]
    assert {(case.get("package"), case.get("classname")) for case in cases} >= DEPARTED
