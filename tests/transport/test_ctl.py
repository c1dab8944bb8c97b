"""What ratelimitctl says: a server's words are never taken for the network's."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import grpc
import pytest

from ratelimitd import ctl, ctl_call, terminal
from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd._proto.ratelimitd.inspect.v1 import inspect_pb2
from ratelimitd.ctl_output import describe_span, print_answer, print_explanation
from ratelimitd.transport.listen import ListenAddress, TlsFiles, UnixAddress
from tests.support.certificates import Authority, make_authority
from tests.support.children import wait_for
from tests.support.daemon import running_daemon
from tests.support.servers import MakeServer
from tests.transport.refusing import refuse_by_grpcio, refuse_by_h2
from tests.transport.support import ANY_PORT

Ask = Callable[..., tuple[int, str, str]]
ASK = ("--domain", "api", "--descriptor", "path=/login")
POLICY = """\
domain: api
descriptors:
  - {key: path, value: /login, rate_limit: {unit: year, requests_per_unit: 5}}
  - key: open
    rate_limit: {unit: year, requests_per_unit: 5, on_store_failure: allow}
"""


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    """Run ratelimitctl in this process: exit code, stderr, stdout."""

    def ask_now(*arguments: str) -> tuple[int, str, str]:
        code = terminal.run_app(ctl.app, ctl.NAME, arguments)
        output = capfd.readouterr()
        return code, output.err, output.out

    return ask_now


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "ca")


@pytest.fixture
def refusing(data_plane: str) -> Iterator[Callable[..., str]]:
    """Start servers of each kind that answer one status; returns their addresses."""
    refuse = refuse_by_grpcio if data_plane == "grpcio" else refuse_by_h2
    with ExitStack() as stack:

        def start(
            details: str,
            code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
            address: ListenAddress = ANY_PORT,
            tls: TlsFiles | None = None,
        ) -> str:
            at, stop = refuse(address, tls, code, details)
            stack.callback(stop)
            return at

        yield start


@pytest.mark.parametrize("is_unix", [False, True])
@pytest.mark.parametrize(
    "details",
    [
        "the store does not answer: Error 111 connecting to store:6379. Connection refused.",
        "store /run/store.sock: No such file or directory",
        "the store closed the connection",
        "the store could not be connected to: failed to connect, Socket closed",
    ],
)
def test_words_of_the_server_are_shown_as_they_are(
    ask: Ask, refusing: Callable[..., str], tmp_path: Path, details: str, *, is_unix: bool
) -> None:
    listen = UnixAddress(f"{tmp_path}/s") if is_unix else ANY_PORT
    address = refusing(details, address=listen)

    code, error, output = ask("hit", *ASK, "--address", address)

    assert (code, output) == (1, "")
    assert error == f"ratelimitctl: UNAVAILABLE: {details}\n"


@pytest.mark.usefixtures("data_plane")
@pytest.mark.parametrize("is_unix", [False, True])
def test_hit_without_the_store_says_what_the_daemon_says(
    ask: Ask, make_server: MakeServer, tmp_path: Path, *, is_unix: bool
) -> None:
    # given: a daemon whose store has been killed
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "api.yaml").write_text(POLICY)
    store = make_server("valkey9", has_tcp=True)
    unix = ("--grpc", f"unix:{tmp_path}/grpc") if is_unix else ()
    with running_daemon(policy, store.tcp_url, tmp_path / "d", flags=unix) as daemon:
        address = f"unix:{tmp_path}/grpc" if is_unix else daemon.grpc_address
        assert ask("hit", *ASK, "--address", address)[0] == 0
        store.kill()

        # when
        wait_for(lambda: ask("hit", *ASK, "--address", address)[0] == 1, "the failure")
        code, error, _ = ask("hit", *ASK, "--address", address)
        open_code, _, open_output = ask(
            "hit", "--domain", "api", "--descriptor", "open=1", "--address", address
        )

    # then
    assert code == 1
    assert error.startswith("ratelimitctl: UNAVAILABLE: ")
    assert "is ratelimitd running" not in error
    assert error.count("\n") == 1
    assert open_code == 0
    assert "OK  (store away: allow)" in open_output


def test_missing_unix_socket_is_nobody_who_listens(ask: Ask, tmp_path: Path) -> None:
    code, error, _ = ask("hit", *ASK, "--address", f"unix:{tmp_path}/none")

    assert code == 1
    assert error.endswith("/none; is ratelimitd running there?\n")


def test_escapes_of_the_server_are_not_sent_to_the_terminal(
    ask: Ask, refusing: Callable[..., str]
) -> None:
    address = refusing("red \x1b[31mtext", code=grpc.StatusCode.INTERNAL)

    _, error, _ = ask("hit", *ASK, "--address", address)

    assert error == "ratelimitctl: INTERNAL: red \\x1b[31mtext\n"


@pytest.mark.parametrize("argument", ["a=\x1b]0;x\x07", "a=1\nratelimitctl: fine"])
def test_descriptor_that_moves_the_cursor_is_shown_escaped(
    capsys: pytest.CaptureFixture[str], argument: str
) -> None:
    answer = rls_pb2.RateLimitResponse(overall_code="OK")
    status = answer.statuses.add(code="OK", limit_remaining=1)
    status.current_limit.name = "[red]\x1b[2J:smile:"
    explanation = inspect_pb2.ExplainResponse(policy_revision="a\x9b1b")
    explanation.descriptors.add(summary="\x1b[1A").steps.add(entry=argument, reason="\r")

    print_answer([argument], answer)
    print_explanation([argument], explanation)

    output = capsys.readouterr().out
    assert all(character.isprintable() for character in output.replace("\n", ""))
    assert terminal.printable(argument) in output
    assert "\\x1b[1A" in output


def test_plain_port_asked_with_tls_says_so(ask: Ask, refusing: Callable[..., str]) -> None:
    address = refusing("never said")

    _, error, _ = ask("hit", *ASK, "--address", address, "--tls")

    assert error.endswith(
        f"ratelimitctl: {address} does not speak TLS; leave out --tls, --ca and --cert\n"
    )


def test_tls_port_says_what_is_missing(
    ask: Ask, refusing: Callable[..., str], authority: Authority, tmp_path: Path
) -> None:
    # given
    pair = authority.issue("localhost")
    stranger = make_authority(tmp_path / "other", "Other CA").certificate
    address = refusing("asked", tls=TlsFiles(certificate=pair.certificate, key=pair.key))
    port = address.rpartition(":")[2]

    # when
    _, plain, _ = ask("hit", *ASK, "--address", address)
    _, untrusted, _ = ask("hit", *ASK, "--address", f"localhost:{port}", "--ca", str(stranger))
    ca = str(authority.certificate)
    name = ("--server-name", "elsewhere")
    _, misnamed, _ = ask("hit", *ASK, "--address", address, "--ca", ca, *name)
    _, right, _ = ask("hit", *ASK, "--address", f"localhost:{port}", "--ca", ca)

    # then
    assert plain.endswith("closed the connection; does it speak TLS (--tls, --ca)?\n")
    assert untrusted.endswith("is not trusted; name who signed it: --ca\n")
    assert misnamed.endswith("is for another name; give the one that it has: --server-name\n")
    assert right == "ratelimitctl: UNAVAILABLE: asked\n"


def test_http_port_is_told_from_grpc(ask: Ask) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def answer_http() -> None:
            caller, _ = listener.accept()
            with closing(caller):
                caller.recv(1000)
                caller.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer_http, daemon=True)
        thread.start()

        code, error, _ = ask("hit", *ASK, "--address", f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join(10)

    assert code == 1
    assert "does not speak gRPC: hit asks the gRPC port (8081)" in error


def test_files_that_are_no_certificates_are_named(ask: Ask, authority: Authority) -> None:
    pair = authority.issue("localhost")

    code, error, _ = ask("hit", *ASK, "--ca", os.devnull)
    swapped = ask("hit", *ASK, "--cert", str(pair.key), "--key", str(pair.certificate))

    assert (code, error) == (
        2,
        f"ratelimitctl: --ca: {os.devnull} holds no certificate in PEM form\n",
    )
    assert swapped[0] == 2
    assert "are not a certificate and its unencrypted key in PEM form" in swapped[1]


def test_unknown_host_is_said(ask: Ask) -> None:
    _, error, _ = ask("hit", *ASK, "--address", "nobody.invalid:1")

    assert error.startswith("ratelimitctl: cannot ")
    assert "nobody.invalid:1" in error


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (7_200, "2 h"),
        (86_399, "23 h 59 min"),
        (891_580, "10 d 7 h"),
        (31_536_000, "365 d"),
    ],
)
def test_span_is_shown_in_two_units(seconds: int, text: str) -> None:
    assert describe_span(seconds) == text


def test_connection_with_any_tls_file_is_tls() -> None:
    assert ctl_call.Connection(address="a", timeout_s=1, ca=Path("x")).is_tls
    assert not ctl_call.Connection(address="a", timeout_s=1).is_tls
