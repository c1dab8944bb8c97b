"""A timer finer than the event loop's, which counts in milliseconds: a timerfd of the kernel."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

_CLOCK_MONOTONIC = 1
_NONBLOCK, _CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_NS = 1_000_000_000


@contextmanager
def ticking(
    loop: "asyncio.AbstractEventLoop", interval_ns: int, call: Callable[[], None]
) -> Iterator[None]:
    """Call `call` every `interval_ns` until the block ends; ticks that were missed are one."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK | _CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")

    def tick() -> None:
        os.read(descriptor, 8)
        call()

    try:
        # struct itimerspec: the interval, then the first expiry, each as seconds and nanoseconds.
        times = (ctypes.c_long * 4)(*divmod(interval_ns, _NS), *divmod(interval_ns, _NS))
        if libc.timerfd_settime(descriptor, 0, ctypes.byref(times), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        loop.add_reader(descriptor, tick)
        yield
        loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)
