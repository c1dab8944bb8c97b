"""The Lua scripts: found, expanded with what they include, named by their SHA-1.

A line `--- @include "lib/name"` puts lua/lib/name.lua before the script, once however often it is
named. Scripts are content-addressed, so old and new daemons share a store during a rolling deploy.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from ratelimitd.errors import ConfigError

_INCLUDE = re.compile(r'^\s*--- @include "([a-z0-9_/]+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One expanded script; `sha` is what EVALSHA takes."""

    name: str
    text: bytes
    sha: str


@dataclass(frozen=True, slots=True)
class Scripts:
    """Every verb that changes or reads limits."""

    check: Script
    peek: Script
    give_back: Script


@dataclass(frozen=True, slots=True)
class SubjectScripts:
    """Every verb that changes the registry of subjects, or tells what changed in it."""

    write: Script
    block: Script
    changes: Script


def load_scripts(directory: Path | None = None) -> Scripts:
    """Load every verb from `directory`, by default the one that the package brings."""
    lua = directory or lua_directory()
    return Scripts(
        check=load_script(lua, "check"),
        peek=load_script(lua, "peek"),
        give_back=load_script(lua, "give_back"),
    )


def load_subject_scripts(directory: Path | None = None) -> SubjectScripts:
    """Load the verbs of the registry as `load_scripts` does."""
    lua = directory or lua_directory()
    return SubjectScripts(
        write=load_script(lua, "subject_write"),
        block=load_script(lua, "subject_block"),
        changes=load_script(lua, "subject_changes"),
    )


def lua_directory() -> Path:
    """Return where the scripts are: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_lua"
    return installed if installed.is_dir() else package.parent / "lua"


def load_script(directory: Path, name: str) -> Script:
    """Expand `directory`/`name`.lua; ConfigError names the chain of a bad include."""
    parts: list[str] = []
    _expand(directory, name, (), set(), parts)
    text = "\n".join(parts).encode()
    return Script(name, text, hashlib.sha1(text, usedforsecurity=False).hexdigest())


def _expand(
    directory: Path, name: str, chain: tuple[str, ...], included: set[str], parts: list[str]
) -> None:
    """Append `name` to `parts`, after what it includes."""
    here = (*chain, name)
    if name in chain:
        raise ConfigError(f"lua include cycle: {' -> '.join(here)}")
    if name in included:
        return
    path = directory / f"{name}.lua"
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise ConfigError(f"lua include {' -> '.join(here)}: {path}: {reason}") from error
    for include in _INCLUDE.findall(text):
        _expand(directory, include, here, included, parts)
    included.add(name)
    parts.append(text)
