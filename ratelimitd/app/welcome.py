"""What `ratelimitd dev` prints once it listens: where, and what to try next."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ratelimitd import terminal
from ratelimitd.app.servers import Addresses
from ratelimitd.policy.dump import describe_amount, limits
from ratelimitd.policy.match import match
from ratelimitd.policy.model import Domain, Limit, Node, Policy
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.transport.listen import ListenAddress, TcpAddress

# A limit that a person can reach by hand shows more than one of thousands.
EASY_REQUESTS = 20
MAX_SUGGESTED = 3
# Deeper than any policy is; the walk ends here whatever it is given.
MAX_DEPTH = 32
CTL = "ratelimitctl"


def show(directory: Path) -> Callable[[Addresses, PolicyHolder], None]:
    """Return what prints the welcome for the policy in `directory`."""

    def on_ready(addresses: Addresses, holder: PolicyHolder) -> None:
        console = Console(highlight=False, soft_wrap=True, emoji=False)
        policy = holder.policy
        rules = sum(1 for _ in limits(policy)) if policy else 0
        console.print("\n[bold]ratelimitd is ready[/bold]")
        console.print(f"  gRPC    {addresses.grpc}  for Envoy")
        console.print(f"  HTTP    {_url(addresses.http)}  /json /healthz /metrics /policy")
        console.print(f"  admin   {addresses.admin}  for ratelimitctl peek and explain")
        counted = terminal.count(rules, "limit")
        shown = terminal.printable(str(directory))
        console.print(Text(f"  policy  {shown}  ({counted}; loaded again when it changes)"))
        if policy is not None:
            console.print("\n[bold]Try[/bold]")
            for line in _suggestions(policy, addresses):
                console.print(Text(f"  {terminal.printable(line)}"))
        console.print("\nCtrl-C stops it.\n")

    return on_ready


def suggest(policy: Policy) -> Iterator[tuple[str, str, Limit]]:
    """Yield domain, descriptor and limit for limits that a person can try, the easiest first."""
    found = [
        (domain, entries, limit)
        for domain in policy.domains.values()
        for entries, limit in _reachable(domain, domain.root, ())
    ]
    found.sort(key=lambda each: (each[2].requests_per_unit > EASY_REQUESTS, len(each[1])))
    for domain, entries, limit in found:
        texts = (f"{key}={value}".replace(",", "\\,") for key, value in entries)
        yield domain.name, ",".join(texts), limit


def ctl_command(run_as: str, found_on_path: str | None) -> str:
    """Return how to type ratelimitctl: by its name if that finds the one beside `run_as`."""
    beside = Path(run_as).with_name(CTL)
    is_found = found_on_path is not None and os.path.realpath(found_on_path) == os.path.realpath(
        beside
    )
    return CTL if is_found or not beside.exists() else shlex.quote(str(beside))


def _suggestions(policy: Policy, addresses: Addresses) -> Iterator[str]:
    flag = "" if _has_port(addresses.grpc, 8081) else f" --address {_dial(addresses.grpc)}"
    ctl = ctl_command(sys.argv[0], shutil.which(CTL))
    tried = list(suggest(policy))[:MAX_SUGGESTED]
    for domain, descriptor, limit in tried:
        yield f"{ctl} hit {_question(domain, descriptor)}{flag}   # {describe_amount(limit)}"
    if tried:
        domain, descriptor, _ = tried[0]
        admin = "" if _has_port(addresses.admin, 8082) else f" --address {_dial(addresses.admin)}"
        yield f"{ctl} explain {_question(domain, descriptor)}{admin}"
    yield f"curl -s {_url(addresses.http)}/policy"


def _question(domain: str, descriptor: str) -> str:
    quoted = "'" + descriptor.replace("'", "'\\''") + "'"
    return f"--domain {shlex.quote(domain)} --descriptor {quoted}"


def _reachable(
    domain: Domain, node: Node, entries: tuple[tuple[str, str], ...]
) -> Iterator[tuple[tuple[tuple[str, str], ...], Limit]]:
    if len(entries) >= MAX_DEPTH:
        return
    # A wildcard is also found by its own text, so it stands in both.
    wildcards = (wildcard.node for wildcard in node.wildcards)
    for child in {id(each): each for each in (*node.exact.values(), *wildcards)}.values():
        path = (*entries, _entry(child))
        found = match(domain, path).limit
        if found is not None and found is child.limit and not found.is_unlimited:
            yield path, found
        yield from _reachable(domain, child, path)


def _entry(node: Node) -> tuple[str, str]:
    """Return an entry that reaches `node`: where its joined name is cut changes nothing."""
    if not node.has_value:
        return node.name, "demo"
    key, _, value = node.name.rpartition("_")
    return key or node.name, value.replace("*", "demo")


def _has_port(address: ListenAddress, port: int) -> bool:
    return isinstance(address, TcpAddress) and address.port == port


def _dial(address: ListenAddress) -> str:
    if isinstance(address, TcpAddress) and address.host in {"0.0.0.0", "::"}:  # noqa: S104 - compared
        return f"127.0.0.1:{address.port}"
    return str(address)


def _url(address: ListenAddress) -> str:
    return f"http://{_dial(address)}" if isinstance(address, TcpAddress) else str(address)
