"""Loads the policy, and loads it again when its files change.

Rules:
- The new policy replaces one reference, so a request sees the old one or the new one.
- A policy with errors changes nothing: the last good one stays in force, and logs, metrics, health
  details and /policy say so.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ratelimitd.errors import ConfigError
from ratelimitd.policy.compile import Compiled, CompileOptions, compile_policy
from ratelimitd.policy_source import DirectorySource
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.settings.model import PolicySettings
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.logs import fields

_log = logging.getLogger("ratelimitd.policy")

# A policy with more oddities than this has one cause; `ratelimitd validate` shows all.
MAX_LOGGED_LINES = 50


@dataclass(slots=True, kw_only=True)
class PolicyLoop:
    """Keeps `holder` at the newest good policy; `on_load` is told after each attempt."""

    source: DirectorySource
    options: CompileOptions
    holder: PolicyHolder
    telemetry: Telemetry
    on_load: Callable[[], Awaitable[None]]

    async def load(self) -> None:
        """Load once; raises ConfigError with every finding, and changes only the load's state."""
        try:
            # In a thread: a large policy takes longer than a request may wait.
            compiled = await asyncio.to_thread(self._compile)
        except ConfigError as error:
            self.holder.load_error = str(error)
            self.telemetry.policy_load_failed()
            raise
        self._put_in_force(compiled)

    async def reload(self) -> None:
        """Load again; errors are logged, and the last good policy stays."""
        try:
            await self.load()
        except ConfigError as error:
            kept = self.holder.policy
            _log.error(
                "the changed policy has errors, %s",
                "the last good one stays in force" if kept else "none is in force",
                extra=fields(policy=kept.revision if kept else "none"),
            )
            _log_lines(logging.ERROR, str(error).splitlines())
        await self.on_load()

    async def watch(self, stop: asyncio.Event) -> None:
        """Reload at each change, until `stop` is set."""
        async for _ in self.source.changes(stop):
            await self.reload()

    def _compile(self) -> Compiled:
        return compile_policy(self.source.read(), self.options)

    def _put_in_force(self, compiled: Compiled) -> None:
        policy = compiled.policy
        is_new = self.holder.policy is None or self.holder.policy.revision != policy.revision
        self.holder.policy = policy
        self.holder.load_error = ""
        self.telemetry.policy_loaded(policy, now_s=time.time())
        if is_new:
            _log.info(
                "policy in force",
                extra=fields(policy=policy.revision, domains=len(policy.domains)),
            )
            _log_lines(logging.WARNING, [str(finding) for finding in compiled.warnings])


def policy_loop(
    settings: PolicySettings,
    holder: PolicyHolder,
    telemetry: Telemetry,
    on_load: Callable[[], Awaitable[None]],
) -> PolicyLoop:
    """Return the loop that `settings` ask for; nothing is read yet."""
    return PolicyLoop(
        source=DirectorySource(settings.directory, ignore_dotfiles=settings.is_ignoring_dot_files),
        options=CompileOptions(
            merge_domains=settings.is_merging_domains, counts_denied=settings.counts_denied
        ),
        holder=holder,
        telemetry=telemetry,
        on_load=on_load,
    )


def _log_lines(level: int, lines: list[str]) -> None:
    for line in lines[:MAX_LOGGED_LINES]:
        _log.log(level, "%s", line)
    if len(lines) > MAX_LOGGED_LINES:
        _log.log(level, "and %d more; see `ratelimitd validate`", len(lines) - MAX_LOGGED_LINES)
