"""Loads the policy, and loads it again when its files change.

Rules:
- The new policy replaces one reference, so a request sees the old one or the new one.
- A policy with errors changes nothing: the last good one stays in force, and logs, metrics, health
  details and /policy say so.
- One load at a time: who comes later reads later, so the newest files win.
- Files are settled when their policy is in force, or has errors; whatever else went wrong says
  nothing about them, and they are tried again.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ratelimitd.app.compiler import CompilerError, compile_apart, let_go
from ratelimitd.app.policy_in_force import put_in_force
from ratelimitd.errors import ConfigError
from ratelimitd.policy.callers import CALLERS_FILE, Callers
from ratelimitd.policy.compile import CompileOptions
from ratelimitd.policy.loaded import Loaded
from ratelimitd.policy.model import Policy
from ratelimitd.policy.report import quote
from ratelimitd.policy.transfer import compile_to_frames, load
from ratelimitd.policy_source import DirectorySource, Reading, Signature
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.settings.model import Settings
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.logs import fields
from ratelimitd.transport.errors import new_error_id
from ratelimitd.transport.listen import is_private
from ratelimitd.workers.policy_frames import PolicyFrames

_log = logging.getLogger("ratelimitd.policy")

# A policy with more oddities than this has one cause; `ratelimitd validate` shows all.
MAX_LOGGED_LINES = 50
MAX_ERROR_LINES = 100
MAX_LINE_CHARACTERS = 500
MAX_NAMED_DOMAINS = 10

# Between tries of files that could not be loaded though nothing is known to be wrong with them.
FIRST_RETRY_S = 5.0
LAST_RETRY_S = 600.0


@dataclass(slots=True)
class _Failure:
    """Files that could not be loaded, how often, and when they are tried again."""

    signature: Signature
    tries: int
    retry_at_s: float


@dataclass(slots=True, kw_only=True)
class PolicyLoop:
    """Keeps `holder` at the newest good policy; `on_load` is told after each attempt.

    `unguarded` is a port that others can reach and that asks nobody who they are, "" for none.
    `frames` keeps what was compiled, for workers.
    """

    source: DirectorySource
    options: CompileOptions
    holder: PolicyHolder
    telemetry: Telemetry
    on_load: Callable[[], Awaitable[None]]
    now_s: Callable[[], float] = time.monotonic
    unguarded: str = ""
    frames: PolicyFrames | None = None
    # What the policy in force was made of, for workers.
    files: Mapping[str, bytes] | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _parts: list[object] = field(default_factory=list)
    _failure: _Failure | None = None

    async def load(self) -> None:
        """Load before anything is served; raises ConfigError with every finding."""
        async with self._lock:
            reading = await asyncio.to_thread(self.source.take)
            try:
                # Nobody waits for an answer yet, so this process can do it itself.
                loaded = load(self._kept(compile_to_frames(reading.files(), self.options)))
            except ConfigError as error:
                self._note_error(str(error))
                self.source.settle(reading)
                raise
            await self._put_in_force(loaded, reading)

    async def reload(self) -> None:
        """Load again; errors are logged, and the last good policy stays."""
        async with self._lock:
            reading = await asyncio.to_thread(self.source.take)
            await self._reload(reading)
        await self.on_load()

    async def watch(self, stop: asyncio.Event) -> None:
        """Reload at each change, until `stop` is set."""
        async for _ in self.source.changes(stop):
            await self._reload_if_due()

    async def _reload_if_due(self) -> None:
        """Reload, unless the files are those that could not be loaded a moment ago."""
        async with self._lock:
            reading = await asyncio.to_thread(self.source.take)
            failure = self._failure
            is_known = failure is not None and failure.signature == reading.signature
            if is_known and failure is not None and self.now_s() < failure.retry_at_s:
                return
            await self._reload(reading)
        await self.on_load()

    async def _reload(self, reading: Reading) -> None:
        try:
            loaded = await compile_apart(reading.files(), self.options, self._begin_to_keep())
        except ConfigError as error:
            self.source.settle(reading)
            self._failure = None
            self._note_error(str(error))
            which = "policy" if self.holder.policy is None else "changed policy"
            self._log_kept(f"the {which} has errors")
            _log_lines(logging.ERROR, str(error).splitlines())
        except CompilerError as error:
            self._fail(reading, str(error))
            self._log_kept(f"the policy could not be loaded: {error}")
        except Exception as error:  # noqa: BLE001 - a defect of ours must not look like success
            error_id = new_error_id()
            self._fail(reading, f"internal error {error_id}, see the log")
            self._log_kept(f"the policy could not be loaded, error id {error_id}", error)
        else:
            await self._put_in_force(loaded, reading)

    def _begin_to_keep(self) -> Callable[[bytes], None]:
        """Return who keeps the frames of the policy that is compiled now."""
        if self.frames is None:
            return lambda _: None
        self.frames.begin()
        return self.frames.add

    def _kept(self, frames: Iterator[bytes]) -> Iterator[bytes]:
        keep = self._begin_to_keep()
        for frame in frames:
            keep(frame)
            yield frame

    def _fail(self, reading: Reading, told: str) -> None:
        """Have the files tried again: soon, then ever later while they stay as they are."""
        failure = self._failure
        is_same = failure is not None and failure.signature == reading.signature
        tries = failure.tries + 1 if is_same and failure is not None else 1
        wait_s = min(FIRST_RETRY_S * 2 ** min(tries - 1, 20), LAST_RETRY_S)
        self._failure = _Failure(reading.signature, tries, self.now_s() + wait_s)
        self.source.unsettle()
        self._note_error(told)

    async def _put_in_force(self, loaded: Loaded, reading: Reading) -> None:
        policy, before = loaded.policy, self.holder.policy
        callers_before = self.holder.callers
        self.files = reading.files()
        if self.frames is not None:
            self.frames.commit(policy.revision)
        self._failure = None
        self.source.settle(reading)
        await put_in_force(loaded, self.holder, self.telemetry)
        self._log_callers(callers_before, loaded.callers, is_first=before is None)
        if before is None or before.revision != policy.revision:
            _log.info(
                "policy in force",
                extra=fields(policy=policy.revision, domains=len(policy.domains)),
            )
            if before is not None:
                _log_removed(before, policy)
            _log_lines(logging.WARNING, loaded.warnings, more=loaded.more_warnings)
        # From here on the list alone holds the old policy, so that it goes in steps.
        del before
        old, self._parts = self._parts, loaded.parts
        await let_go(old)

    def _log_callers(self, before: Callers | None, now: Callers | None, *, is_first: bool) -> None:
        """Say that calls are restricted to callers from now on, or that they are not."""
        if now is None and is_first:
            _log.info("no %s: whoever reaches the gRPC port may call everything", CALLERS_FILE)
        elif now is None and before is not None:
            _log.warning(
                "%s is gone: whoever reaches the gRPC port may call everything now", CALLERS_FILE
            )
        elif now is not None and before is None:
            _log.info("%s in force", CALLERS_FILE, extra=fields(callers=len(now.sans)))
            if self.unguarded:
                _log.warning(
                    "%s says who may call on the gRPC port; /json on %s asks nobody who they are",
                    CALLERS_FILE,
                    self.unguarded,
                )

    def _note_error(self, text: str) -> None:
        if self.frames is not None:
            self.frames.drop()
        lines = [_shortened(line) for line in text.splitlines()]
        if len(lines) > MAX_ERROR_LINES:
            more = len(lines) - MAX_ERROR_LINES
            lines[MAX_ERROR_LINES:] = [f"and {more:,} more; see `ratelimitd validate`"]
        self.holder.load_error = "\n".join(lines) or "the policy could not be loaded"
        self.telemetry.policy_load_failed()

    def _log_kept(self, what: str, error: Exception | None = None) -> None:
        kept = self.holder.policy
        _log.error(
            "%s, %s",
            what,
            "the last good one stays in force" if kept else "none is in force",
            extra=fields(policy=kept.revision if kept else "none"),
            exc_info=error,
        )


def policy_loop(
    settings: Settings,
    holder: PolicyHolder,
    telemetry: Telemetry,
    on_load: Callable[[], Awaitable[None]],
    frames: PolicyFrames | None = None,
) -> PolicyLoop:
    """Return the loop that `settings` ask for; nothing is read yet."""
    policy, listen = settings.policy, settings.listen
    return PolicyLoop(
        source=DirectorySource(policy.directory, ignore_dotfiles=policy.is_ignoring_dot_files),
        options=CompileOptions(
            merge_domains=policy.is_merging_domains,
            counts_denied=policy.counts_denied,
            knows_callers=listen.knows_callers,
        ),
        holder=holder,
        telemetry=telemetry,
        on_load=on_load,
        unguarded="" if is_private(listen.http) else str(listen.http),
        frames=frames,
    )


def _log_removed(before: Policy, now: Policy) -> None:
    removed = [name for name in before.domains if name not in now.domains]
    if not removed:
        return
    names = ", ".join(quote(name) for name in removed[:MAX_NAMED_DOMAINS])
    more = f" and {len(removed) - MAX_NAMED_DOMAINS} more" if removed[MAX_NAMED_DOMAINS:] else ""
    _log.warning("domains left the policy, their requests all pass now: %s%s", names, more)


def _log_lines(level: int, lines: Sequence[str], *, more: int = 0) -> None:
    for line in lines[:MAX_LOGGED_LINES]:
        _log.log(level, "%s", _shortened(line))
    more += max(0, len(lines) - MAX_LOGGED_LINES)
    if more:
        _log.log(level, "and %d more; see `ratelimitd validate`", more)


def _shortened(line: str) -> str:
    return line if len(line) <= MAX_LINE_CHARACTERS else line[: MAX_LINE_CHARACTERS - 3] + "..."
