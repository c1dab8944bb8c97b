"""What a client is told to ask, and what it saw: the same for clients in every language.

What it saw is, for each name, how many answers there were of each kind: `OK <message in base64>`
or `CODE: text`.
"""

import json
import subprocess
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ratelimitd._proto.envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse

RUN_TIMEOUT_S = 60
TEXT, BYTES = "x-text", "x-bytes-bin"


class Call(NamedTuple):
    """What to ask, `repeats` times at once on one connection."""

    name: str
    path: str
    message: bytes
    repeats: int = 1
    timeout_ms: int = 20_000
    # A field of the metadata, and one of bytes, of these sizes.
    text_bytes: int = 0
    binary_bytes: int = 0
    is_gzip: bool = False
    # Leave right after the call was sent.
    is_cancelled: bool = False


Seen = dict[str, Counter[str]]
Client = Callable[[str, Sequence[Call]], Seen]


def program(command: Sequence[str | Path]) -> Client:
    """Return a client that is another program; its sources say how it is told."""

    def run(address: str, calls: Sequence[Call]) -> Seen:
        done = subprocess.run(
            command,
            input=json.dumps({"Address": address, "Calls": [_to_json(call) for call in calls]}),
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return {name: Counter(counts) for name, counts in json.loads(done.stdout).items()}

    return run


def to_line(code: str, details: str) -> str:
    """Return how a failure is told."""
    return f"{code}: {details}"


def to_ok(message: bytes) -> str:
    """Return how an answer is told."""
    return f"OK {b64encode(message).decode()}"


def overall_codes(seen: Counter[str]) -> Counter[str]:
    """Return the verdicts in answers that are all OK, and the others as they are."""
    codes: Counter[str] = Counter()
    for line, count in seen.items():
        if line.startswith("OK "):
            answer = RateLimitResponse.FromString(b64decode(line[3:]))
            codes[RateLimitResponse.Code.Name(answer.overall_code)] += count
        else:
            codes[line] += count
    return codes


def _to_json(call: Call) -> dict[str, object]:
    return {
        "Name": call.name,
        "Path": call.path,
        "Message": b64encode(call.message).decode(),
        "Repeats": call.repeats,
        "TimeoutMs": call.timeout_ms,
        "TextBytes": call.text_bytes,
        "BinaryBytes": call.binary_bytes,
        "IsGzip": call.is_gzip,
        "IsCancelled": call.is_cancelled,
    }
