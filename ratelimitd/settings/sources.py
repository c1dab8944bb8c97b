"""Which text counts for an option: the flag's, our variable's, or the reference server's.

Rules:
- A flag wins over RATELIMITD_..., and that over the reference server's variables.
- The store's address and its credentials come from one place: REDIS_AUTH and REDIS_TLS_* are
  for the store of REDIS_URL and never sent to another.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from ratelimitd.settings import options
from ratelimitd.settings.option import Option
from ratelimitd.settings.options import OPTIONS
from ratelimitd.settings.upstream import Text, read_upstream
from ratelimitd.settings.upstream_table import UPSTREAM_BY_NAME
from ratelimitd.settings.values import FALSE_TEXTS

T = TypeVar("T")

# What Kubernetes sets in every pod for a Service whose name starts with ratelimitd.
_IS_LINK = re.compile(r"_(SERVICE_(HOST|PORT(_.+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_.+)?)?)$")
_STORE_OPTIONS = (
    options.STORE_PASSWORD_FILE,
    options.STORE_CA,
    options.STORE_CERT,
    options.STORE_KEY,
    options.STORE_ANY_HOSTNAME,
)
# What says how to reach the store of REDIS_URL, and what says nothing there.
_IS_OFF = frozenset(text.lower() for text in FALSE_TEXTS)
_OF_REDIS_URL: Mapping[str, frozenset[str]] = {
    "REDIS_AUTH": frozenset(),
    "REDIS_TLS": _IS_OFF,
    "REDIS_TYPE": frozenset({"single"}),
    "REDIS_TLS_CLIENT_CERT": frozenset(),
    "REDIS_TLS_CLIENT_KEY": frozenset(),
    "REDIS_TLS_CACERT": frozenset(),
    "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION": _IS_OFF,
}


@dataclass(frozen=True, slots=True)
class Given:
    """Texts by option name, and what is wrong or odd about where they stand."""

    texts: Mapping[str, Text]
    problems: list[str]
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class Values:
    """Texts by option name, parsed on demand; a bad one leaves a problem and its default."""

    texts: Mapping[str, Text]
    problems: list[str]

    def get(self, option: Option[T]) -> T:
        """Return the option's value."""
        given = self.texts.get(option.name)
        if given is None:
            return option.default
        try:
            return option.parse(given.text)
        except ValueError as error:
            shown = "" if option.is_secret else f" {given.text!r}"
            self.problems.append(f"{given.source}:{shown} is not accepted: {error}")
            return option.default

    def has(self, option: Option[object]) -> bool:
        """Tell whether anybody set the option, well or badly."""
        return option.name in self.texts

    def source(self, option: Option[object]) -> str:
        """Return the flag or variable that an operator would look for."""
        given = self.texts.get(option.name)
        return given.source if given else option.flag


def collect(flags: Mapping[str, str], environ: Mapping[str, str]) -> Given:
    """Return the text that counts for each option that anybody set."""
    environ, problems = _readable(environ)
    upstream = read_upstream(environ)
    texts = {**upstream.texts, **_ours(flags, environ)}
    warnings = [
        *upstream.warnings,
        *_unknown_variables(environ),
        *_keep_store_together(texts, environ),
    ]
    return Given(texts, [*problems, *upstream.problems], warnings)


def _readable(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables that are text, and a problem for each of ours that is not."""
    known = UPSTREAM_BY_NAME.keys() | {option.variable for option in OPTIONS}
    readable, problems = {}, []
    for name, text in environ.items():
        try:
            f"{name}{text}".encode()
            readable[name] = text
        except UnicodeEncodeError:
            if name in known:
                problems.append(f"{name}: is not UTF-8")
    return readable, problems


def _ours(flags: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, Text]:
    texts = {}
    for option in OPTIONS:
        if option.name in flags:
            texts[option.name] = Text(option.flag, flags[option.name])
        elif text := environ.get(option.variable, ""):
            texts[option.name] = Text(option.variable, text)
    return texts


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    known = {option.variable for option in OPTIONS}
    return [
        f"{name} is set and has no effect: there is no such variable"
        for name in sorted(environ)
        if name.startswith("RATELIMITD_") and name not in known and not _IS_LINK.search(name)
    ]


def _keep_store_together(texts: dict[str, Text], environ: Mapping[str, str]) -> list[str]:
    """Take away what belongs to the store of REDIS_URL if another one is used; returns warnings."""
    store = texts.get(options.STORE.name)
    if store is None or store.source == "REDIS_URL":
        return []
    for option in _STORE_OPTIONS:
        text = texts.get(option.name)
        if text is not None and text.source in UPSTREAM_BY_NAME:
            del texts[option.name]
    return [
        f"{name} has no effect: the store is named by {store.source}"
        for name, default in _OF_REDIS_URL.items()
        if environ.get(name, "") and environ[name].lower() not in default
    ]
