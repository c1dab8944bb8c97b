"""How many files and sockets a process that holds connections may have."""

import contextlib
import resource


def raise_file_limit() -> None:
    """Allow this process as many descriptors as it may have; the usual 1,024 are soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
