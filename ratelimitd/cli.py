"""The daemon's command line: dev, serve, validate.

Exit codes: 0 done; 1 it could not be done (errors in the policy, a port in use, a directory that
cannot be written); 2 the flags or variables are wrong. The reason is on stderr, a line for each.
"""

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ratelimitd import terminal
from ratelimitd.errors import ConfigError, PolicyError
from ratelimitd.policy.compile import CompileOptions, compile_policy
from ratelimitd.policy.dump import to_table
from ratelimitd.policy_source import DirectorySource
from ratelimitd.settings import options
from ratelimitd.settings.load import load_policy_settings, load_settings
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

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings=terminal.HELP_NAMES,
)
terminal.add_version(
    app, NAME, "A rate-limit service for Envoy. Its counters live in Redis or Valkey."
)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(terminal.run_app(app, NAME))


def with_flags(chosen: Iterable[Option[Any]]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command a flag for each of `chosen`; it is called with texts by option name."""

    def decorate(command: Callable[[dict[str, str]], int]) -> Callable[..., int]:
        def with_texts(**given: str | bool | None) -> int:
            flags = {
                option.name: str(given[option.parameter]).lower()
                if option.is_switch
                else str(given[option.parameter])
                for option in chosen
                if given[option.parameter] is not None
            }
            return command(flags)

        with_texts.__doc__ = command.__doc__
        with_texts.__name__ = command.__name__
        with_texts.__signature__ = inspect.Signature(  # type: ignore[attr-defined] # what typer reads
            [_to_parameter(option) for option in chosen]
        )
        return with_texts

    return decorate


def _to_parameter(option: Option[Any]) -> inspect.Parameter:
    names = (f"{option.flag}/--no-{option.name}",) if option.is_switch else (option.flag,)
    declared = typer.Option(
        *names,
        help=option.help,
        metavar=None if option.is_switch else option.metavar,
        rich_help_panel=option.panel,
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
@with_flags(_DEV_OPTIONS)
def dev(flags: dict[str, str]) -> int:
    """Try it: an embedded store in ./.ratelimitd, readable logs, all defaults."""
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
    """Serve a policy to Envoy. Every flag has a variable: --log-level is RATELIMITD_LOG_LEVEL."""
    return _run(flags, os.environ)


@app.command()
def validate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of policy files.")],
) -> int:
    """Check every policy file: all errors with file:line:column, or the compiled limits."""
    try:
        settings = load_policy_settings({options.POLICY.name: str(directory)}, os.environ)
    except ConfigError as error:
        terminal.complain(NAME, str(error).splitlines())
        return terminal.EXIT_USAGE
    source = DirectorySource(directory, ignore_dotfiles=settings.is_ignoring_dot_files)
    try:
        compiled = compile_policy(
            source.read(),
            CompileOptions(
                merge_domains=settings.is_merging_domains, counts_denied=settings.counts_denied
            ),
        )
    except PolicyError as error:
        lines = str(error).splitlines()
        terminal.complain(
            NAME, [*lines, f"{_count(len(lines), 'error')}; nothing of it would be served"]
        )
        return terminal.EXIT_FAILED
    except ConfigError as error:
        terminal.complain(NAME, str(error).splitlines())
        return terminal.EXIT_FAILED
    for warning in compiled.warnings:
        terminal.complain(NAME, [f"warning: {warning}"])
    typer.echo("\n".join(to_table(compiled.policy)))
    typer.echo(
        f"\nNo errors. {_count(len(compiled.policy.domains), 'domain')}, {compiled.policy.revision}"
    )
    return 0


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


def _count(number: int, noun: str) -> str:
    """Return `1 error` or `2 errors`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


if __name__ == "__main__":
    main()
