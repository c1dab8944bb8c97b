r"""The policy as workers get it: one file with all policy files, replaced as a whole.

    {"serial": 3, "revision": "5f1e…", "load_error": "",
     "files": [["api.yaml", 812], ...], "checksum": 123}\n
    the content of each file, one after the other

Rules:
- The control process writes only policies that it could compile; `load_error` tells what is
  wrong with newer ones, and `files` is None while there was never a good one.
- A worker that starts reads the copy, so that it serves what the others do; policy_frames.py has
  it compiled.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NAME: Final = "policy.copy"


@dataclass(frozen=True, slots=True)
class PolicyCopy:
    """The files of the last good policy, its revision, and what became of the last load."""

    serial: int
    files: Mapping[str, bytes] | None
    load_error: str = ""
    revision: str = ""


def write_policy_copy(directory: Path, copy: PolicyCopy) -> None:
    """Let workers read `copy` from now on."""
    body = b"".join((copy.files or {}).values())
    head = {
        "serial": copy.serial,
        "revision": copy.revision,
        "load_error": copy.load_error,
        "files": None
        if copy.files is None
        else [[name, len(content)] for name, content in copy.files.items()],
        "checksum": zlib.crc32(body),
    }
    new = directory / f"{_NAME}.new"
    new.write_bytes(json.dumps(head).encode() + b"\n" + body)
    new.replace(directory / _NAME)


def read_policy_copy(directory: Path) -> PolicyCopy:
    """Return the newest copy. Raises OSError or ValueError if there is none that is whole."""
    line, _, body = (directory / _NAME).read_bytes().partition(b"\n")
    head = json.loads(line)
    if zlib.crc32(body) != head["checksum"]:
        raise ValueError(f"{directory / _NAME} is damaged")
    if head["files"] is None:
        return PolicyCopy(head["serial"], None, head["load_error"], head["revision"])
    files: dict[str, bytes] = {}
    at = 0
    for name, size in head["files"]:
        files[name] = body[at : at + size]
        at += size
    return PolicyCopy(head["serial"], files, head["load_error"], head["revision"])
