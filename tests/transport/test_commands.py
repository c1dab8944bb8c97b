"""A user's mistake is one clear line and an exit code, never a traceback."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ratelimitd import cli, ctl, terminal
from ratelimitd.errors import ConfigError
from ratelimitd.settings.options import OPTIONS
from tests.support.children import free_ports
from tests.support.daemon import clean_environment

Run = Callable[..., tuple[int, list[str], str]]

GOOD = """\
domain: api
descriptors:
  - key: path
    value: /login
    rate_limit: {unit: minute, requests_per_unit: 5}
"""
ASK = ("--domain", "api", "--descriptor", "path=/login")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command line in this process: exit code, lines on stderr, text on stdout."""
    kept = clean_environment()
    for name in set(os.environ) - kept.keys():
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run_now(name: str, *arguments: str) -> tuple[int, list[str], str]:
        app = cli.app if name == cli.NAME else ctl.app
        code = terminal.run_app(app, name, list(arguments))
        output = capfd.readouterr()
        return code, output.err.splitlines(), output.out

    return run_now


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("serve", "--nothing"), "ratelimitd serve: No such option: --nothing"),
        (("serve", "--grpc"), "ratelimitd: Option '--grpc' requires an argument"),
        (("serve", "extra"), "ratelimitd serve: Got unexpected extra argument"),
        (("nothing",), "ratelimitd: No such command 'nothing'"),
        (("validate",), "ratelimitd validate: Missing argument 'DIR'"),
        (("validate", "a", "b"), "ratelimitd validate: Got unexpected extra argument"),
        (
            ("serve", "--policy", "p", "--store", "embedded", "--grpc", "8081"),
            "ratelimitd: --grpc: '8081' is not accepted: write HOST:PORT",
        ),
        (
            ("serve", "--policy", "p", "--store", "redis"),
            "ratelimitd: --store: store URL: it has no scheme",
        ),
        (
            ("serve", "--policy", "p", "--store", "embedded", "--admin", "0.0.0.0:1"),
            "ratelimitd: --admin: 0.0.0.0:1 can be reached by others",
        ),
        (("serve", "--policy", "p"), "ratelimitd: --store is missing"),
        (("serve", "--store", "embedded"), "ratelimitd: --policy is missing"),
        (("dev", "--grpc", "x"), "ratelimitd: --grpc: 'x' is not accepted"),
        (("dev", "--store", "embedded"), "ratelimitd dev: No such option: --store"),
    ],
)
def test_wrong_flag_is_exit_2_and_one_line(run: Run, arguments: tuple[str, ...], line: str) -> None:
    code, (error,), output = run("ratelimitd", *arguments)

    assert code == 2
    assert error.startswith(line)
    assert output == ""


def test_no_command_is_exit_2_and_shows_the_help(run: Run) -> None:
    code, errors, output = run("ratelimitd")

    assert code == 2
    assert errors == ["ratelimitd: a command is missing (see `ratelimitd --help`)"]
    assert "serve" in output


@pytest.mark.parametrize(
    "command", [(), ("serve",), ("dev",), ("validate",), ("hit",), ("peek",), ("explain",)]
)
def test_help_is_exit_0(run: Run, command: tuple[str, ...]) -> None:
    name = "ratelimitctl" if command in {("hit",), ("peek",), ("explain",)} else "ratelimitd"

    code, errors, output = run(name, *command, "--help")

    assert (code, errors) == (0, [])
    assert "Usage:" in output


def test_refused_variable_is_exit_2(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKEND_TYPE", "memcache")

    code, (error,), _ = run("ratelimitd", "serve", "--policy", "p", "--store", "embedded")

    assert code == 2
    assert error.startswith("ratelimitd: BACKEND_TYPE=memcache: only Redis and Valkey")


def test_validate_prints_the_limits(run: Run, tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(GOOD)

    code, errors, output = run("ratelimitd", "validate", str(tmp_path))

    assert (code, errors) == (0, [])
    assert "5 per minute" in output
    assert "No errors." in output


def test_validate_tells_every_error_of_every_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD.replace("minute", "fortnight"))
    (tmp_path / "b.yaml").write_text("domain: b\ndescriptors:\n  - value: x\n  - key: [")

    code, errors, output = run("ratelimitd", "validate", str(tmp_path))

    assert code == 1
    assert output == ""
    assert any(line.startswith(f"{tmp_path}/a.yaml:5:") for line in errors)
    assert any(line.startswith(f"{tmp_path}/b.yaml:") for line in errors)
    assert errors[-1].endswith("nothing of it would be served")


@pytest.mark.parametrize("target", ["", "a.yaml"])
def test_validate_checks_who_may_call(run: Run, tmp_path: Path, target: str) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "callers.yaml").write_text("callers: [{san: a b, domains: [api], methods: all}]")
    directory = str(tmp_path / target)

    code, errors, _ = run("ratelimitd", "validate", directory)
    (tmp_path / "callers.yaml").write_text("callers: [{san: edge, domains: [ap], methods: all}]")
    good_code, warnings, output = run("ratelimitd", "validate", directory)

    assert (code, good_code) == (1, 0)
    assert errors[0].startswith(f"{tmp_path}/callers.yaml:1:17: callers[0].san: `a b` is no DNS")
    assert warnings[0].endswith("warning: no policy file has the domain `ap`; did you mean `api`?")
    assert "edge    ap       all      callers.yaml:1:11" in output
    assert "No errors. 1 domain, 1 caller, " in output


def test_validate_tells_of_unreadable_files_beside_the_others(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD.replace("minute", "fortnight"))
    (tmp_path / "b.yaml").symlink_to("gone")

    code, errors, _ = run("ratelimitd", "validate", str(tmp_path))
    (tmp_path / "a.yaml").write_text(GOOD)
    unreadable_code, unreadable, _ = run("ratelimitd", "validate", str(tmp_path))

    assert (code, unreadable_code) == (1, 1)
    assert errors[0] == f"{tmp_path}/b.yaml: is a symlink to gone, which does not exist"
    assert errors[1].startswith(f"{tmp_path}/a.yaml:5:")
    assert errors[2].startswith("ratelimitd: 2 errors; ")
    assert unreadable == [errors[0], "ratelimitd: 1 error; nothing of it would be served"]


def test_validate_of_no_directory_is_exit_1(run: Run, tmp_path: Path) -> None:
    code, (error,), _ = run("ratelimitd", "validate", str(tmp_path / "nowhere"))

    assert code == 1
    assert "does not exist; name a directory of policy files" in error


def test_validate_of_an_empty_directory_is_exit_1(run: Run, tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()

    code, errors, output = run("ratelimitd", "validate", str(tmp_path / "policy"))

    assert code == 1
    assert errors == [f"ratelimitd: {tmp_path}/policy has no policy files; put at least one there"]
    assert "No errors" not in output


def test_validate_reads_files_as_the_daemon_would(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(GOOD.replace("/login", "/logout"))
    assert run("ratelimitd", "validate", str(tmp_path))[0] == 1

    monkeypatch.setenv("MERGE_DOMAIN_CONFIG", "true")

    assert run("ratelimitd", "validate", str(tmp_path))[0] == 0


def test_validate_takes_the_flags_that_change_what_files_mean(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / ".b.yaml").write_text(GOOD.replace("/login", "/logout"))

    one, _, _ = run("ratelimitd", "validate", str(tmp_path))
    two, errors, _ = run("ratelimitd", "validate", "--no-ignore-dot-files", str(tmp_path))
    merged, _, table = run(
        "ratelimitd", "validate", str(tmp_path), "--no-ignore-dot-files", "--merge-domains"
    )

    assert (one, two, merged) == (0, 1, 0)
    assert "or turn on --merge-domains (MERGE_DOMAIN_CONFIG)" in errors[0]
    assert "/logout" in table


def test_validate_of_one_file_names_its_path(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.yaml").write_text(GOOD + "unknown: 1\n")
    monkeypatch.chdir(tmp_path)

    _, of_directory, _ = run("ratelimitd", "validate", "p")
    _, of_file, _ = run("ratelimitd", "validate", "p/a.yaml")

    assert of_directory == of_file
    assert of_file[0].startswith("p/a.yaml:6:1: unknown: ")


@pytest.mark.parametrize("name", ["policy", "data-dir", "grpc", "store-timeout", "log-level"])
def test_help_of_serve_has_variables_and_defaults(run: Run, name: str) -> None:
    (option,) = (option for option in OPTIONS if option.name == name)

    _, _, output = run("ratelimitd", "serve", "--help")

    words = " ".join(output.split())
    default = f"default {option.default_text}; " if option.default_text else ""
    assert f"({default}{option.variable})" in words


def test_help_of_dev_has_its_own_defaults(run: Run) -> None:
    _, _, output = run("ratelimitd", "dev", "--help")

    assert "(default ./.ratelimitd; RATELIMITD_DATA_DIR)" in " ".join(output.split())


@pytest.mark.parametrize("command", ["hit", "peek", "explain"])
def test_asking_where_nothing_listens_is_exit_1_and_one_line(run: Run, command: str) -> None:
    (port,) = free_ports(1)

    code, (error,), output = run("ratelimitctl", command, *ASK, "--address", f"127.0.0.1:{port}")

    assert code == 1
    assert error == (
        f"ratelimitctl: nothing listens on 127.0.0.1:{port}; is ratelimitd running there?"
    )
    assert output == ""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("hit",), "ratelimitctl hit: Missing option '--domain'"),
        (("hit", "--domain", "d"), "ratelimitctl hit: Missing option '--descriptor'"),
        (("hit", *ASK, "--hits", "0"), "ratelimitctl: --hits: '0' is not accepted: write a whole"),
        (("hit", *ASK, "--hits", "x"), "ratelimitctl: --hits: 'x' is not accepted: write a whole"),
        (("hit", *ASK, "--address", "x"), "ratelimitctl: --address: 'x' is not accepted"),
        (("hit", *ASK, "--ca", "/nowhere"), "ratelimitctl: cannot read /nowhere"),
        (("hit", *ASK, "--cert", "/nowhere"), "ratelimitctl: --cert and --key: give both"),
        (
            ("peek", "--domain", "d", "--descriptor", "path"),
            "ratelimitctl: --descriptor: 'path' is not accepted: write key=value",
        ),
        (("explain", *ASK, "--hits", "1"), "ratelimitctl explain: No such option: --hits"),
    ],
)
def test_wrong_flag_of_ctl_is_exit_2_and_one_line(
    run: Run, arguments: tuple[str, ...], line: str
) -> None:
    code, (error,), output = run("ratelimitctl", *arguments)

    assert code == 2
    assert error.startswith(line)
    assert output == ""


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("a=1", [("a", "1")]),
        ("a=1,b=2", [("a", "1"), ("b", "2")]),
        ("a=", [("a", "")]),
        ("a=x=y", [("a", "x=y")]),
        (r"a=1\,2,b=3", [("a", "1,2"), ("b", "3")]),
    ],
)
def test_descriptor_is_entries_in_order(text: str, entries: list[tuple[str, str]]) -> None:
    assert ctl.parse_descriptor(text) == entries


@pytest.mark.parametrize("text", ["", "a", "=1", "a=1,", "a=1,b"])
def test_descriptor_refuses_the_rest(text: str) -> None:
    with pytest.raises(ConfigError, match="write key=value"):
        ctl.parse_descriptor(text)
