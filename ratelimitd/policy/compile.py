"""Policy files become a compiled policy, or every error of every file at once.

Rules:
- Files are read in the order of their names, so wildcards of merged domains are too.
- A file that the reference server accepts gives the same decisions here; what it silently
  ignores is a warning.
- One file among them is no policy: CALLERS_FILE says who may call.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from ratelimitd.errors import Finding, PolicyError
from ratelimitd.policy.callers import CALLERS_FILE, Callers
from ratelimitd.policy.callers_file import Reading, read_callers, warn_unknown_domains
from ratelimitd.policy.document import read_document
from ratelimitd.policy.domain_checks import Gathered, gather
from ratelimitd.policy.domain_settings import DomainSettings, read_settings
from ratelimitd.policy.fields import read_map, read_text, value_of
from ratelimitd.policy.model import (
    DEFAULT_SECRET_KEYS,
    Domain,
    FailurePolicy,
    Node,
    NoMatch,
    Policy,
    Position,
)
from ratelimitd.policy.nodes import MapNode
from ratelimitd.policy.own_keys import Defaults, read_defaults
from ratelimitd.policy.report import Report, quote
from ratelimitd.policy.schema import check_keys
from ratelimitd.policy.tree import Budget, FileContext, Level, read_descriptors

MAX_FILES = 1_000
"""One file is one domain; nobody maintains more by hand, and merged ones are read in one go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """Settings of the daemon that change what a file means.

    `merge_domains` lets several files describe one domain. `counts_denied=False` stops charging
    denied hits everywhere, whatever the rules say. `knows_callers=False` is a daemon that asks
    nobody for a certificate, for which a CALLERS_FILE can mean nothing.
    """

    merge_domains: bool = False
    counts_denied: bool = True
    knows_callers: bool = True


@dataclass(frozen=True, slots=True)
class Compiled:
    """A policy without errors, and what is odd about it, in file order.

    `callers` is None where everybody may call everything.
    """

    policy: Policy
    warnings: tuple[Finding, ...]
    callers: Callers | None = None


def compile_policy(
    files: Mapping[str, str | bytes], options: CompileOptions | None = None
) -> Compiled:
    """Compile all `files`, by name; raises PolicyError with the findings of all of them."""
    state = _State(options or CompileOptions())
    if len(files) > MAX_FILES:
        message = f"{len(files)} files; a policy has at most {MAX_FILES}"
        raise PolicyError([Finding("policy", 0, 0, "", message)])
    reports = []
    callers: tuple[Reading, Report] | None = None
    for name in sorted(files):
        report = Report(name)
        reports.append(report)
        if name == CALLERS_FILE:
            callers = (_read_callers(files[name], report, state.options), report)
            continue
        root = read_document(files[name], report)
        if root is not None:
            check_keys(root, report)
            _read_file(root, report, state)
    by_file = {report.file: report for report in reports}
    gathered = {
        name: gather(draft.level.exact, draft.settings, by_file)
        for name, draft in state.domains.items()
    }
    if callers is not None:
        warn_unknown_domains(callers[0], state.domains, callers[1])
    if any(report.has_errors for report in reports):
        raise PolicyError([finding for report in reports for finding in report.errors])
    policy = Policy(
        revision=_revision(files),
        domains={
            name: _finish(draft, gathered[name], state.options)
            for name, draft in state.domains.items()
        },
    )
    warnings = tuple(finding for report in reports for finding in report.warnings)
    return Compiled(policy, warnings, callers[0].callers if callers is not None else None)


@dataclass(slots=True)
class _Draft:
    """A domain while its files are read."""

    name: str
    position: Position
    level: Level = field(default_factory=Level)
    settings: DomainSettings = field(default_factory=DomainSettings)
    defaults: Defaults | None = None


@dataclass(slots=True)
class _State:
    """What grows while the files of a policy are read."""

    options: CompileOptions
    domains: dict[str, _Draft] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)


def _read_callers(content: str | bytes, report: Report, options: CompileOptions) -> Reading:
    reading = read_callers(content, report)
    if not options.knows_callers:
        report.error(
            None,
            "",
            "says who may call, and without client certificates nobody can be told apart; "
            "add --grpc-client-ca, or take the file away to let everybody",
        )
    return reading


def _read_file(root: MapNode, report: Report, state: _State) -> None:
    """Add one file to its domain."""
    name = read_text(root, "domain", "", report)
    draft = state.domains.get(name)
    if not name:
        at = root.get("domain") or root
        report.error(at, "domain", "is missing or empty; a file names the domain that it limits")
    elif draft and not state.options.merge_domains:
        report.error(
            root.key("domain"),
            "domain",
            f"{quote(name)} is already the domain of {draft.position}; "
            "use one file, or turn on --merge-domains (MERGE_DOMAIN_CONFIG)",
        )
        draft = None  # the rest of this file is checked on its own
    if draft is None:
        at = root.key("domain") or root
        draft = _Draft(name, Position(report.file, at.line, at.column))
        state.domains.setdefault(name, draft)
    draft.settings = read_settings(
        root, draft.settings, name, report, has_rules=bool(draft.level.exact)
    )
    defaults = read_defaults(read_map(root, "defaults", "", report), "defaults", report)
    _take_defaults(root, draft, defaults, report)
    file = FileContext(
        report=report,
        budget=state.budget,
        domain=name,
        secret_keys=_secret_keys(draft),
        defaults=defaults,
        counts_denied=state.options.counts_denied,
    )
    read_descriptors(root, draft.level, file)


def _take_defaults(root: MapNode, draft: _Draft, defaults: Defaults, report: Report) -> None:
    """Let the first file of a domain that has `defaults` decide about the limits in requests."""
    if value_of(root, "defaults") is None:
        return
    if draft.defaults is None:
        draft.defaults = defaults
    elif _about_requests(draft.defaults) != _about_requests(defaults):
        message = (
            f"other `defaults` of the domain {quote(draft.name)} stand in an earlier file; "
            "they decide about limits that requests bring, these about this file's rules alone"
        )
        report.warn(root.key("defaults") or root, "defaults", message)


def _about_requests(defaults: Defaults) -> tuple[FailurePolicy, bool]:
    return defaults.on_store_failure, defaults.charges_denied


def _finish(draft: _Draft, gathered: Gathered, options: CompileOptions) -> Domain:
    defaults = draft.defaults or Defaults()
    settings, exact = draft.settings, draft.level.exact
    root = Node(
        name="",
        rule=draft.name,
        position=draft.position,
        exact=exact,
        wildcards=tuple(draft.level.wildcards),
        has_times=any(node.has_times for node in exact.values()),
    )
    return Domain(
        name=draft.name,
        root=root,
        position=draft.position,
        on_no_match=settings.on_no_match or NoMatch.ALLOW,
        on_store_failure=defaults.on_store_failure,
        counts_denied=defaults.charges_denied and options.counts_denied,
        secret_keys=_secret_keys(draft),
        subjects=settings.subjects,
        attributes=gathered.attributes,
        partition_by=settings.partition_by or "",
        headers=settings.headers,
        calendars=gathered.calendars,
        hidden_keys=_secret_keys(draft) | gathered.hidden_keys,
    )


def _secret_keys(draft: _Draft) -> frozenset[str]:
    named = draft.settings.secret_keys
    return DEFAULT_SECRET_KEYS if named is None else named


def _revision(files: Mapping[str, str | bytes]) -> str:
    """Return 16 hex digits over names and contents; lengths keep their borders apart."""
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name]
        for part in (name, content):
            data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
    return digest.hexdigest()[:16]
