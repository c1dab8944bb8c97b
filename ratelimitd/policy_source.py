"""Reads policy files from a directory, and tells when they have changed.

Rules:
- A read is repeated while files change under it, so a swap never gives half of each side.
- An event only wakes the watcher up. What decides is a comparison of all files with what was
  last read, which also happens without events, so a lost event costs seconds, never a change.
"""

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import watchfiles

from ratelimitd.errors import ConfigError, Finding, PolicyError
from ratelimitd.policy.callers import CALLERS_FILE
from ratelimitd.policy.document import MAX_FILE_BYTES
from ratelimitd.policy_walk import Signature as FileSignature
from ratelimitd.policy_walk import Walk, to_finding, walk

MAX_POLICY_BYTES = 64 * 1024 * 1024
"""All files together; more takes minutes to compile."""

READ_ATTEMPTS = 5
"""Reads of a directory that changes while it is read; the last one stands, and is read again."""

DEBOUNCE_MS = 200
"""After an event, so long for the rest of the same change."""

POLL_INTERVAL_S = 10.0
"""How late a change is found when its event was lost."""

Signature: TypeAlias = tuple[FileSignature, ...] | str


@dataclass(frozen=True, slots=True)
class Reading:
    """One read: the files by name, or why there are none; `signature` is what was read."""

    signature: Signature
    outcome: dict[str, bytes] | ConfigError

    def files(self) -> dict[str, bytes]:
        """Return the files; raises the ConfigError."""
        if isinstance(self.outcome, ConfigError):
            raise self.outcome
        return self.outcome


class UnreadableFiles(PolicyError):  # noqa: N818 - reads as what is the case
    """Some files cannot be read; `files` are the others, in which more may be wrong."""

    def __init__(self, findings: Sequence[Finding], files: dict[str, bytes]) -> None:
        super().__init__(findings)
        self.files = files


class DirectorySource:
    """The policy files below `root`; a single file is accepted too.

    With `ignore_dotfiles` every file and directory whose name starts with a dot is passed over:
    the default for `--policy`. The reference server's RUNTIME_IGNOREDOTFILES is false by
    default, and then `.draft.yaml` is policy as any other file. Names that start with two dots
    (`..data`, `..2026_01_31`) are never read in their own right: they are how Kubernetes swaps a
    mount, and reading them would define every domain twice.
    """

    def __init__(
        self,
        root: Path,
        *,
        ignore_dotfiles: bool = True,
        poll_interval_s: float = POLL_INTERVAL_S,
    ) -> None:
        self.root = root
        self._ignore_dotfiles = ignore_dotfiles
        self._poll_interval_s = poll_interval_s
        self._read_signature: Signature | None = None

    def read(self) -> dict[str, bytes]:
        """Return the content of every file by name, and settle it; raises ConfigError."""
        reading = self.take()
        self.settle(reading)
        return reading.files()

    def take(self) -> Reading:
        """Read every file; changes nothing here, so it may run in a thread."""
        for _ in range(READ_ATTEMPTS):
            signature = self._signature()
            reading = Reading(signature, self._try_to_read())
            if self._signature() == signature:
                break
        return reading

    def settle(self, reading: Reading) -> None:
        """Remember that all was made of `reading` that can be: only other files are a change."""
        self._read_signature = reading.signature

    def unsettle(self) -> None:
        """Forget what was settled: the files are a change, whatever they are."""
        self._read_signature = None

    async def changes(self, stop: asyncio.Event) -> AsyncGenerator[None, None]:
        """Yield when the files differ from the last ones settled, until `stop` is set.

        A consumer that settles nothing after a change is told again, at the poll interval.
        """
        while not stop.is_set():
            async with self._watching(stop) as woken:
                # Watched first, compared second: a change in between wakes the next round up.
                if await asyncio.to_thread(self._signature) != self._read_signature:
                    yield
                await woken

    @asynccontextmanager
    async def _watching(self, stop: asyncio.Event) -> AsyncIterator[asyncio.Task[None]]:
        """Watch the directories; the task ends at an event, the poll interval, or `stop`."""
        directories = await asyncio.to_thread(self._watched)
        woken = asyncio.create_task(self._wait(directories, stop))
        await asyncio.sleep(0)  # the first step of the task puts the watches in place
        try:
            yield woken
        finally:
            woken.cancel()
            await asyncio.wait([woken])

    async def _wait(self, directories: set[Path], stop: asyncio.Event) -> None:
        try:
            await self._wait_for_event(directories, stop)
        except (OSError, RuntimeError):
            # No inotify watches left, or a directory went away just now: poll.
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._poll_interval_s)

    async def _wait_for_event(self, directories: set[Path], stop: asyncio.Event) -> None:
        if not directories:
            raise FileNotFoundError(errno.ENOENT, "nothing to watch", str(self.root))
        events = watchfiles.awatch(
            *directories,
            watch_filter=None,
            debounce=DEBOUNCE_MS,
            step=DEBOUNCE_MS // 4,
            stop_event=cast("Any", _Halt(stop)),
            rust_timeout=int(self._poll_interval_s * 1000),
            yield_on_timeout=True,
            recursive=False,
        )
        async with aclosing(events):
            await anext(events, None)

    def _signature(self) -> Signature:
        """Return what changes when any file does; the error's text where there is one."""
        try:
            return tuple(sorted(self._walk().signature))
        except ConfigError as error:
            return str(error)

    def _watched(self) -> set[Path]:
        """Return the directories whose events may mean a change."""
        directories = set(_link_parents(self.root))
        with suppress(ConfigError):
            directories |= self._walk().directories
        return directories

    def _try_to_read(self) -> dict[str, bytes] | ConfigError:
        try:
            return self._read_once()
        except ConfigError as error:
            return error

    def _read_once(self) -> dict[str, bytes]:
        found = self._walk()
        if not found.files.keys() - {CALLERS_FILE} and not found.findings:
            # No limits at all is never what an emptied directory is meant to say.
            raise ConfigError(f"{self.root} has no policy files; put at least one there")
        contents: dict[str, bytes] = {}
        total = 0
        for name, path in found.files.items():
            try:
                with path.open("rb") as file:
                    contents[name] = file.read(MAX_FILE_BYTES + 1)
            except OSError as error:
                found.findings.append(to_finding(name, path, error))
                continue
            total += len(contents[name])
            if total > MAX_POLICY_BYTES:
                raise ConfigError(
                    f"the policy files in {self.root} have more than {MAX_POLICY_BYTES:,} bytes "
                    f"together; is it the right directory?"
                )
        if found.findings:
            raise UnreadableFiles(found.findings, contents)
        return contents

    def _walk(self) -> Walk:
        return walk(self.root, ignore_dotfiles=self._ignore_dotfiles)


class _Halt:
    """The stop event as watchfiles wants it: it sets it when cancelled, which is not its right."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._is_cancelled = False

    def is_set(self) -> bool:
        return self._is_cancelled or self._stop.is_set()

    def set(self) -> None:
        self._is_cancelled = True


def _link_parents(path: Path) -> Iterator[Path]:
    """Yield the directory of every symlink on the way to `path`: that is where it is swapped."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow the links
    for step in (absolute, *absolute.parents):
        if step.is_symlink() and step.parent.is_dir():
            yield step.parent
