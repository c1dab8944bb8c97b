"""`ratelimitctl subject`, `block`, `unblock` and `blocks`, through real gRPC on a real store."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ratelimitd import ctl, ctl_import, terminal
from ratelimitd._proto.ratelimitd.subject.v1 import subject_pb2
from ratelimitd.ctl_call import CallError
from ratelimitd.ctl_values import parse_amount, parse_span_s
from ratelimitd.errors import ConfigError
from tests.support.children import free_ports, wait_for
from tests.support.daemon import running_daemon
from tests.support.servers import Server
from tests.support.subject_service import RULES, Clock, policy_of, serving_subjects

Ask = Callable[..., tuple[int, str, str]]
KEY = "api_key=topsecret"
WHY = ("--reason", "bought it")


@pytest.fixture
def clock() -> Clock:
    # Spans that are shown begin with the time of day.
    return Clock()


@pytest.fixture
def address(valkey9: Server, tmp_path: Path, clock: Clock) -> Iterator[str]:
    valkey9.execute("FLUSHALL")
    with serving_subjects(valkey9, tmp_path, policy_of(), clock) as served:
        yield served


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Ask:
    """Run ratelimitctl in this process: exit code, stderr, stdout."""

    def run_now(*arguments: str) -> tuple[int, str, str]:
        code = terminal.run_app(ctl.app, ctl.NAME, arguments)
        output = capfd.readouterr()
        return code, output.err, output.out

    return run_now


@pytest.fixture
def ask(run: Ask, address: str) -> Ask:
    """Run it against the service."""
    return lambda *arguments: run(*arguments, "--address", address)


def write_csv(tmp_path: Path, text: str) -> str:
    path = tmp_path / "subjects.csv"
    path.write_text(text)
    return str(path)


def test_subject_is_set_shown_listed_and_deleted(ask: Ask) -> None:
    # given
    limits = ("--limit", "per-key=500", "--limit", "*=7", "--for", "30d")
    # when
    code, error, output = ask("subject", "set", "api", KEY, "--tier", "pro", *limits, *WHY)
    # then
    assert (code, error) == (0, "")
    entry, tier, first, second, reason, version = output.splitlines()
    assert entry.startswith("api_key=#")
    assert len(entry) == len("api_key=#") + 8
    assert tier.startswith("  tier     pro (for ")
    assert first.startswith("  limit    per-key=500 (for ")
    assert second.startswith("  limit    7 for all limits (for ")
    assert (reason, version) == ("  reason   bought it", "  version  1")
    assert ask("subject", "show", "api", KEY) == (0, "", output)
    code, error, listed = ask("subject", "list", "api")
    assert (code, error) == (0, "")
    assert listed.split()[:4] == ["ENTRY", "TIER", "LIMITS", "REASON"]
    assert listed.splitlines()[1].startswith(entry)
    assert ask("subject", "delete", "api", KEY) == (0, "", "deleted\n")
    code, error, output = ask("subject", "show", "api", KEY)
    assert (code, output) == (1, "")
    assert error == f"ratelimitctl: NOT_FOUND: {entry} has no record\n"


def test_suspension_begins_and_ends_and_what_is_not_said_stays(ask: Ask) -> None:
    # given
    ask("subject", "set", "api", KEY, "--tier", "pro", "--limit", "per-key=9", *WHY)
    # when
    _, _, suspended = ask("subject", "set", "api", KEY, "--suspend", "--reason", "abuse")
    _, _, resumed = ask("subject", "set", "api", KEY, "--resume", "--reason", "paid")
    _, _, plain = ask("subject", "set", "api", KEY, "--no-limit", "per-key", *WHY)
    # then
    assert "  limit    per-key=9\n  limit    suspended\n  reason   abuse" in suspended
    assert "suspended" not in resumed
    assert "  tier     pro\n  limit    per-key=9\n" in resumed
    assert "  tier     pro\n  reason   bought it\n" in plain
    _, _, text = ask("subject", "set", "api", KEY, "--tier", "", *WHY, "--json")
    assert json.loads(text)["record"]["version"] == "5"
    assert "tier" not in json.loads(text)["record"]


def test_value_comes_from_stdin(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    monkeypatch.setattr(sys, "stdin", io.StringIO("topsecret\nmore\n"))
    ask("subject", "set", "api", "api_key=-", "--tier", "pro", *WHY)
    # then
    assert ask("subject", "show", "api", KEY)[0] == 0
    # and without one it says so
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    code, error, _ = ask("block", "api", "api_key=-", *WHY)
    assert (code, error) == (2, "ratelimitctl: api_key=-: stdin has no value in its first line\n")


def test_version_that_is_not_there_is_a_conflict(ask: Ask) -> None:
    # given
    assert ask("subject", "set", "api", KEY, "--tier", "a", *WHY, "--version", "0")[0] == 0
    # when
    code, error, _ = ask("subject", "set", "api", KEY, "--tier", "a", *WHY, "--version", "0")
    # then
    assert code == 1
    assert error.startswith("ratelimitctl: ABORTED: api_key=#")
    assert error.endswith("its version is 1 now; look, and set it again\n")


def test_unknown_tier_is_warned_of_on_stderr(ask: Ask) -> None:
    # when
    code, error, output = ask("subject", "set", "api", KEY, "--tier", "gold", *WHY)
    # then
    assert code == 0
    assert error.startswith("warning: no limit of `api` has a number for the tier `gold`")
    assert "gold" in output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("subject", "set", "api", "topsecret", "--tier", "a"), 2, "an entry is written KEY=VALUE"),
        (("subject", "set", "api", KEY), 2, "nothing to set: give --tier, --limit, --no-limit"),
        (("subject", "set", "api", KEY, "--limit", "x"), 2, "--limit: 'x' is not accepted"),
        (("subject", "set", "api", KEY, "--limit", "a=-1"), 2, "--limit: 'a=-1' is not accepted"),
        (("subject", "set", "api", KEY, "--tier", "a", "--for", "1w"), 2, "--for: '1w' is not"),
        (("subject", "set", "web", KEY, "--tier", "a"), 1, "names no subjects; add `subjects: {k"),
        (("subject", "set", "api", KEY, "--limit", "x=1"), 1, "no limit of `api` is named `x`"),
        (("block", "none", "ip=1"), 1, "INVALID_ARGUMENT: domain: the policy has no `none`"),
        (("block", "api", "ip"), 2, "an entry is written KEY=VALUE"),
        (("block", "api", "ip=-", "user=-"), 2, "only one value can be read from stdin"),
    ],
)
def test_mistake_is_one_line_and_repeats_no_value(
    ask: Ask, arguments: tuple[str, ...], code: int, message: str
) -> None:
    # when
    found, error, output = ask(*arguments, *WHY)
    # then
    assert (found, output) == (code, "")
    assert error.count("\n") == 1
    assert message in error
    assert "topsecret" not in error


def test_missing_reason_is_a_wrong_use(run: Ask) -> None:
    for command in (("subject", "set", "api", KEY), ("block", "api", KEY)):
        code, error, _ = run(*command)
        assert code == 2
        assert "Missing option '--reason'" in error


def test_blocks_are_made_listed_and_ended(ask: Ask) -> None:
    # when
    code, error, made = ask("block", "web", "ip=10.0.0.1", KEY, "--for", "10m", *WHY)
    # then
    assert (code, error) == (0, "")
    header, first, second = made.splitlines()
    assert header.split() == ["ENTRY", "ENDS", "IN", "REASON"]
    assert first.startswith("ip=10.0.0.1")
    assert second.startswith("api_key=#")
    ask("block", "web", "user=x", *WHY)
    _, _, listed = ask("blocks", "web")
    assert "topsecret" not in made + listed
    assert [line.split()[0] for line in listed.splitlines()][-1] == "user=x"
    assert "never" in listed.splitlines()[-1]
    assert ask("unblock", "web", "ip=10.0.0.1", "ip=2") == (0, "", "unblocked 1 entry\n")
    code, error, _ = ask("unblock", "web", "ip=10.0.0.1")
    assert (code, error) == (1, "ratelimitctl: NOT_FOUND: none of these entries is blocked\n")
    _, _, text = ask("blocks", "web", "--json")
    assert len(json.loads(text)["blocks"]) == 2


def test_import_takes_a_file_in_several_calls(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setattr(ctl_import, "MAX_ROWS", 2)
    file = write_csv(
        tmp_path,
        "\ufeffvalue,tier,limits,for,reason\n"
        "k1,pro,per-key=5;*=7,30d,one\n"
        'k2,free,,,"two, and more"\n'
        "k3,,*=0,,\n",
    )
    # when
    code, error, output = ask("subject", "import", "api", file, "--reason", "from a file")
    # then
    assert (code, output) == (0, "imported 3 subjects\n")
    assert error == "ratelimitctl: 2 of 3\nratelimitctl: 3 of 3\n"
    _, _, third = ask("subject", "show", "api", "api_key=k3")
    assert "limit    suspended\n  reason   from a file\n" in third
    _, _, text = ask("subject", "show", "api", "api_key=k1", "--json")
    assert [one["amount"] for one in json.loads(text)["record"]["overrides"]] == ["5", "7"]
    _, _, listed = ask("subject", "list", "api")
    assert len(listed.splitlines()) == 4


def test_import_with_wrong_lines_names_each_and_imports_nothing(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setattr(ctl_import, "MAX_ROWS", 2)
    file = write_csv(
        tmp_path,
        "value,tier,limits,for,reason\n"
        "topsecret1,pro,,,ok\n"
        ",pro,,,ok\n"
        "topsecret1,pro,,,again\n"
        "topsecret2,pro,x,,ok\n"
        "topsecret3,pro,,soon,ok\n"
        "topsecret4,pro\n"
        "topsecret5,pro,,,\n"
        "topsecret6,,nope=1,,ok\n",
    )
    # when
    code, error, output = ask("subject", "import", "api", file)
    # then
    assert (code, output) == (1, "")
    lines = [line.removeprefix(f"ratelimitctl: {file}:") for line in error.splitlines()]
    assert [line.partition(" ")[0] for line in lines] == [
        *("3:", "4:", "5:", "6:", "7:", "8:", "9:"),
        "ratelimitctl:",
    ]
    assert "same value as line 2" in lines[1]
    assert "reason: is empty" in lines[5]
    assert "no limit of `api` is named `nope`" in lines[6]
    assert lines[-1] == "ratelimitctl: nothing was imported"
    assert "topsecret" not in error
    _, _, listed = ask("subject", "list", "api")
    assert len(listed.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,tier\na,b\n", "line 1: names the columns: value, and any of tier"),
        ("value,teir\na,b\n", "line 1: names the columns"),
        ("", "line 1: names the columns"),
        ("value\n", "has no subjects"),
        ('value\n"a\n', "is no CSV in UTF-8"),
    ],
)
def test_file_that_cannot_be_imported_says_why(
    ask: Ask, tmp_path: Path, text: str, message: str
) -> None:
    code, error, _ = ask("subject", "import", "api", write_csv(tmp_path, text))
    assert code == 1
    assert message in error


def test_file_that_is_not_there_is_a_wrong_use(ask: Ask, tmp_path: Path) -> None:
    code, error, _ = ask("subject", "import", "api", str(tmp_path / "none.csv"))
    assert code == 2
    assert error.endswith("none.csv: No such file or directory\n")
    (tmp_path / "binary.csv").write_bytes(b"value\n\xff\n")
    code, error, _ = ask("subject", "import", "api", str(tmp_path / "binary.csv"))
    assert code == 1
    assert "is no CSV in UTF-8" in error


def test_store_that_goes_away_within_an_import_leaves_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a daemon whose store takes one write of two
    monkeypatch.setattr(ctl_import, "MAX_ROWS", 1)
    file = write_csv(tmp_path, "value,reason\nk1,r\nk2,r\n")
    written: list[subject_pb2.ImportRequest] = []

    def send(request: subject_pb2.ImportRequest) -> subject_pb2.ImportResponse:
        if not request.validate_only:
            if written:
                raise CallError("UNAVAILABLE: the store is away")
            written.append(request)
        return subject_pb2.ImportResponse()

    # then
    with pytest.raises(ctl_import.ImportFailed) as failure:
        ctl_import.run("api", file, "", send)
    assert str(failure.value).splitlines() == [
        "at least 1 of 2 were imported, up to line 2: UNAVAILABLE: the store is away",
        "import the same file again to go on",
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0), ("90s", 90), ("10m", 600), ("12h", 43_200), ("30d", 2_592_000), ("1d12h", 129_600)],
)
def test_span_is_read(text: str, seconds: int) -> None:
    assert parse_span_s(text) == seconds


@pytest.mark.parametrize("text", ["0s", "d", "1", "1w", "-1s", "1 h", "\u0661s"])
def test_span_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--for"):
        parse_span_s(text)


def test_amount_is_read() -> None:
    assert parse_amount("a=b=5") == ("a=b", 5)
    assert parse_amount("*=0") == ("*", 0)
    for text in ("a", "=5", "a=", "a=x", "a=1.5", f"a={2**53}", "a=" + "9" * 5000):
        with pytest.raises(ConfigError, match="--limit"):
            parse_amount(text)


def test_daemon_serves_the_registry_and_logs_who_changed_it(
    run: Ask, valkey9: Server, tmp_path: Path
) -> None:
    # given a daemon that logs errors only
    valkey9.execute("FLUSHALL")
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "api.yaml").write_text(RULES)
    flags = ("--log-level", "error")
    with running_daemon(policy, valkey9.url, tmp_path / "d", flags=flags) as daemon:
        at = ("--address", daemon.admin_address)
        # when
        code, error, _ = run("block", "api", KEY, "--reason", "abuse", *at)
        _, _, listed = run("blocks", "api", *at)
        refused = run("subject", "set", "api", KEY, "--tier", "a", *WHY, *at)
        # then
        assert (code, error) == (0, "")
        assert listed.splitlines()[1].startswith("api_key=#")
        assert refused[0] == 1
        assert "add `subjects: {key: api_key}` to its file" in refused[1]
        wait_for(lambda: "audit: blocked" in daemon.child.tail(), "the trail")
        line = next(line for line in daemon.child.tail().splitlines() if "blocked" in line)
        assert "peer=ipv4:127.0.0.1:" in line
        assert "reason=abuse" in line
        assert "topsecret" not in daemon.child.tail()


def test_port_that_others_reach_does_not_serve_the_registry(
    run: Ask, valkey9: Server, tmp_path: Path
) -> None:
    # given
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "api.yaml").write_text(RULES)
    (port,) = free_ports(1)
    flags = ("--admin", f"0.0.0.0:{port}", "--insecure-admin")
    with running_daemon(policy, valkey9.url, tmp_path / "d", flags=flags):
        # when
        code, error, _ = run("blocks", "api", "--address", f"127.0.0.1:{port}")
    # then
    assert code == 1
    assert "PERMISSION_DENIED: subjects and blocks are changed and shown on a loopback" in error
