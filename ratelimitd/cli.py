"""The daemon's command line: dev, serve, validate.

Exit codes: 0 done; 1 it could not be done (errors in the policy, a port in use, a directory that
cannot be written, a test of the policy); 2 the flags or variables are wrong, or no test could be
played. The reason is on stderr, a line for each.
"""

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ratelimitd import terminal
from ratelimitd.cli_tests import play_tests
from ratelimitd.errors import ConfigError, Finding, PolicyError
from ratelimitd.policy.compile import Compiled, CompileOptions, compile_policy
from ratelimitd.policy.dump import to_callers_table, to_table
from ratelimitd.policy_source import DirectorySource, UnreadableFiles
from ratelimitd.settings import options
from ratelimitd.settings.load import load_policy_settings, load_settings
from ratelimitd.settings.model import PolicySettings
from ratelimitd.settings.option import Option
from ratelimitd.settings.options import OPTIONS

NAME = "ratelimitd"
DEV_DATA_DIR = ".ratelimitd"
DEV_POLICY_DIR = "policy"

STARTER_POLICY = """\
# A first policy: change it while `ratelimitd dev` runs, it is loaded again.
domain: example
descriptors:
  - key: remote_address
    rate_limit:
      unit: minute
      requests_per_unit: 5
"""

_DEV_OPTIONS = (
    options.POLICY,
    options.DATA_DIR,
    options.GRPC,
    options.HTTP,
    options.ADMIN,
    options.LOG_LEVEL,
)
_VALIDATE_OPTIONS = (options.MERGE_DOMAINS, options.IGNORE_DOT_FILES, options.COUNT_ONLY_ADMITTED)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings=terminal.HELP_NAMES,
    rich_markup_mode=None,  # whose tables cut long flags and names of variables
)
terminal.add_version(
    app, NAME, "A rate-limit service for Envoy. Its counters live in Redis or Valkey."
)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(terminal.run_app(app, NAME))


def with_flags(
    chosen: Iterable[Option[Any]],
    *,
    defaults: Mapping[str, str] | None = None,
    arguments: Iterable[inspect.Parameter] = (),
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command a flag for each of `chosen`; it is called with texts by option name.

    `defaults` are those of the command where they are not the option's; `arguments` come first,
    and the command is called with their values too.
    """

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        def with_texts(**given: Any) -> int:
            values = [given[each.name] for each in arguments]
            flags = {
                option.name: str(given[option.parameter]).lower()
                if option.is_switch
                else str(given[option.parameter])
                for option in chosen
                if given[option.parameter] is not None
            }
            return command(*values, flags)

        with_texts.__doc__ = command.__doc__
        with_texts.__name__ = command.__name__
        with_texts.__signature__ = inspect.Signature(  # type: ignore[attr-defined] # what typer reads
            [*arguments, *(_to_parameter(option, defaults or {}) for option in chosen)]
        )
        return with_texts

    return decorate


def _to_parameter(option: Option[Any], defaults: Mapping[str, str]) -> inspect.Parameter:
    names = (f"{option.flag}/--no-{option.name}",) if option.is_switch else (option.flag,)
    default = defaults.get(option.name, option.default_text)
    declared = typer.Option(
        *names,
        help=f"{option.help} ({f'default {default}; ' if default else ''}{option.variable})",
        metavar=None if option.is_switch else option.metavar,
        show_default=False,
    )
    kind = bool if option.is_switch else str
    return inspect.Parameter(
        option.parameter,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, declared],
    )


@app.command()
@with_flags(
    _DEV_OPTIONS,
    defaults={
        options.POLICY.name: f"./{DEV_POLICY_DIR}, or else a first policy to change",
        options.DATA_DIR.name: f"./{DEV_DATA_DIR}",
    },
)
def dev(flags: dict[str, str]) -> int:
    """Try it here: embedded store, all defaults."""
    flags = {
        options.DATA_DIR.name: DEV_DATA_DIR,
        options.LOG_FORMAT.name: "text",
        **flags,
        options.STORE.name: "embedded",
    }
    if options.POLICY.name not in flags and not os.environ.get(options.POLICY.variable):
        try:
            flags[options.POLICY.name] = str(_find_or_write_policy())
        except OSError as error:
            terminal.complain(NAME, [f"cannot write {error.filename}: {error.strerror}"])
            return terminal.EXIT_FAILED
    return _run(flags, os.environ, is_dev=True)


@app.command()
@with_flags(OPTIONS)
def serve(flags: dict[str, str]) -> int:
    """Serve a policy to Envoy. Each flag has the variable in parentheses; a flag wins over it."""
    return _run(flags, os.environ)


@app.command()
@with_flags(
    _VALIDATE_OPTIONS,
    arguments=[
        inspect.Parameter(
            "directory",
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[
                Path, typer.Argument(metavar="DIR", help="Directory of policy files.")
            ],
        ),
        inspect.Parameter(
            "test",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                Path | None,
                typer.Option(
                    "--test",
                    metavar="TESTS",
                    help="Play these tests: a file, or a directory of them.",
                ),
            ],
        ),
        inspect.Parameter(
            "junit",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                Path | None,
                typer.Option("--junit", metavar="FILE", help="Write their results as JUnit XML."),
            ],
        ),
    ],
)
def validate(directory: Path, test: Path | None, junit: Path | None, flags: dict[str, str]) -> int:
    """Check a policy: all errors with positions, or its limits; play its tests."""
    # With tests, 1 says that they were played and failed.
    failed = terminal.EXIT_FAILED if test is None else terminal.EXIT_USAGE
    if junit is not None and test is None:
        terminal.complain(NAME, ["--junit needs --test: there is nothing to write of"])
        return terminal.EXIT_USAGE
    try:
        settings = load_policy_settings({**flags, options.POLICY.name: str(directory)}, os.environ)
    except ConfigError as error:
        terminal.complain(NAME, str(error).splitlines())
        return terminal.EXIT_USAGE
    source = DirectorySource(directory, ignore_dotfiles=settings.is_ignoring_dot_files)
    try:
        compiled = _compile(source, settings)
    except PolicyError as error:
        _show_findings(directory, "", error.findings)
        found = terminal.count(len(error.findings), "error")
        terminal.complain(NAME, [f"{found}; nothing of it would be served"])
        return failed
    except ConfigError as error:
        terminal.complain(NAME, str(error).splitlines())
        return failed
    _show_findings(directory, "warning: ", compiled.warnings)
    typer.echo("\n".join(map(terminal.printable, to_table(compiled.policy))))
    found = terminal.count(len(compiled.policy.domains), "domain")
    if compiled.callers is not None:
        table = to_callers_table(compiled.callers)
        typer.echo("\n" + "\n".join(map(terminal.printable, table)))
        found += ", " + terminal.count(len(compiled.callers.sans), "caller")
    typer.echo(f"\nNo errors. {found}, {compiled.policy.revision}")
    return 0 if test is None else play_tests(test, junit, compiled.policy)


def _compile(source: DirectorySource, settings: PolicySettings) -> Compiled:
    """Compile what can be read; PolicyError tells about that and about the rest."""
    unreadable: tuple[Finding, ...] = ()
    try:
        files = source.read()
    except UnreadableFiles as error:
        files, unreadable = error.files, error.findings
    meant = CompileOptions(
        merge_domains=settings.is_merging_domains, counts_denied=settings.counts_denied
    )
    try:
        compiled = compile_policy(files, meant)
    except PolicyError as error:
        raise PolicyError([*unreadable, *error.findings]) from error
    if unreadable:
        raise PolicyError(unreadable)
    return compiled


def _show_findings(directory: Path, kind: str, findings: Iterable[Finding]) -> None:
    """Write each finding with a path that an editor can open, and nothing before it."""
    root = directory if directory.is_dir() else directory.parent
    for finding in findings:
        at = replace(finding, file=str(root / finding.file), message=f"{kind}{finding.message}")
        terminal.complain_plainly(str(at))


def _run(flags: Mapping[str, str], environ: Mapping[str, str], *, is_dev: bool = False) -> int:
    try:
        settings = load_settings(flags, environ)
    except ConfigError as error:
        terminal.complain(NAME, str(error).splitlines())
        return terminal.EXIT_USAGE
    # gRPC's core reads this when it is imported; its own lines would stand between ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from ratelimitd.app import daemon, welcome  # noqa: PLC0415 - see above

    try:
        if is_dev:
            daemon.run(settings, welcome.show(settings.policy.directory))
        else:
            daemon.run(settings)
    except ConfigError as error:
        terminal.complain(NAME, str(error).splitlines())
        return terminal.EXIT_FAILED
    return 0


def _find_or_write_policy() -> Path:
    """Return ./policy, or a starter policy that is written where the data is."""
    if Path(DEV_POLICY_DIR).is_dir():
        return Path(DEV_POLICY_DIR)
    directory = Path(DEV_DATA_DIR) / DEV_POLICY_DIR
    starter = directory / "starter.yaml"
    if not starter.exists():
        directory.mkdir(parents=True, exist_ok=True)
        starter.write_text(STARTER_POLICY, encoding="utf-8")
    return directory


if __name__ == "__main__":
    main()
