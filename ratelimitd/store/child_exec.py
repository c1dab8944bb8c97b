"""Become a server that dies with its parent: run as a script, then replaced by the program.

    python child_exec.py PARENT_PID PROGRAM [ARGUMENT...]

A script of its own, because code between fork and exec of a process with threads may deadlock. The
kernel sends SIGTERM, on which the server saves its data, when the parent's forking thread ends,
however it ends. If the parent was gone before we asked for that, we end at once.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to PARENT_PID, keep its files private, become PROGRAM."""
    parent_pid, program = int(arguments[1]), arguments[2]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:
        sys.exit("the parent ended before this child started")
    os.umask(0o077)
    os.execv(program, arguments[2:])  # noqa: S606 - becoming the program is the point


if __name__ == "__main__":
    main(sys.argv)
