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
from ratelimitd.policy.fields import read_choice, read_list, read_map, read_text, value_of
from ratelimitd.policy.limits import Defaults, charges_denied, read_defaults
from ratelimitd.policy.model import (
    DEFAULT_SECRET_KEYS,
    Domain,
    FailurePolicy,
    Node,
    NoMatch,
    Policy,
    Position,
)
from ratelimitd.policy.nodes import MapNode, Scalar
from ratelimitd.policy.report import Report, quote
from ratelimitd.policy.schema import check_keys
from ratelimitd.policy.tree import Budget, FileContext, Level, read_descriptors

MAX_FILES = 1_000
"""One file is one domain; nobody maintains more by hand, and merged ones are read in one go."""

MAX_SECRET_KEYS = 100
"""Names in `secret_keys`; it is looked up once per entry of a request."""


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
    if callers is not None:
        warn_unknown_domains(callers[0], state.domains, callers[1])
    if any(report.has_errors for report in reports):
        raise PolicyError([finding for report in reports for finding in report.errors])
    policy = Policy(
        revision=_revision(files),
        domains={draft.name: _finish(draft, state.options) for draft in state.domains.values()},
    )
    warnings = tuple(finding for report in reports for finding in report.warnings)
    return Compiled(policy, warnings, callers[0].callers if callers is not None else None)


@dataclass(slots=True)
class _Draft:
    """A domain while its files are read; a setting is None until a file gives it."""

    name: str
    position: Position
    level: Level = field(default_factory=Level)
    on_no_match: NoMatch | None = None
    secret_keys: frozenset[str] | None = None
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
    _read_settings(root, draft, report)
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


def _read_settings(root: MapNode, draft: _Draft, report: Report) -> None:
    """Read what holds for the whole domain; files of one domain must not disagree."""
    if value_of(root, "on_no_match") is not None:
        on_no_match = read_choice(root, "on_no_match", "", report, default=NoMatch.ALLOW)
        if draft.on_no_match not in (None, on_no_match):
            message = f"another file of the domain {quote(draft.name)} says otherwise"
            report.error(root.key("on_no_match"), "on_no_match", message)
        draft.on_no_match = on_no_match
    if value_of(root, "secret_keys") is not None:
        secret_keys = _read_secret_keys(root, report)
        is_late = draft.secret_keys is None and bool(draft.level.exact)
        if is_late or draft.secret_keys not in (None, secret_keys):
            message = (
                f"the domain {quote(draft.name)} has other secret keys in an earlier file; "
                "give the list in the first file of the domain"
            )
            report.error(root.key("secret_keys"), "secret_keys", message)
        draft.secret_keys = secret_keys


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
    return defaults.on_store_failure, charges_denied(defaults)


def _read_secret_keys(root: MapNode, report: Report) -> frozenset[str]:
    items = read_list(root, "secret_keys", "", report)
    if len(items) > MAX_SECRET_KEYS:
        report.error(
            root.key("secret_keys"),
            "secret_keys",
            f"names {len(items)} keys; at most {MAX_SECRET_KEYS} are accepted",
        )
    names = set()
    for index, item in enumerate(items[:MAX_SECRET_KEYS]):
        if isinstance(item, Scalar) and item.text:
            names.add(item.text)
        else:
            report.error(item, f"secret_keys[{index}]", "must be the name of a key, as text")
    return frozenset(names)


def _finish(draft: _Draft, options: CompileOptions) -> Domain:
    defaults = draft.defaults or Defaults()
    root = Node(
        name="",
        rule=draft.name,
        position=draft.position,
        exact=draft.level.exact,
        wildcards=tuple(draft.level.wildcards),
    )
    return Domain(
        name=draft.name,
        root=root,
        position=draft.position,
        on_no_match=draft.on_no_match or NoMatch.ALLOW,
        on_store_failure=defaults.on_store_failure,
        counts_denied=charges_denied(defaults) and options.counts_denied,
        secret_keys=_secret_keys(draft),
    )


def _secret_keys(draft: _Draft) -> frozenset[str]:
    return DEFAULT_SECRET_KEYS if draft.secret_keys is None else draft.secret_keys


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
