"""Who may call, as it is loaded and reloaded with the policy."""

import logging
from pathlib import Path

import pytest

from ratelimitd.app.policy_loop import PolicyLoop
from ratelimitd.errors import PolicyError
from ratelimitd.policy.compile import CompileOptions
from tests.app.test_policy_loop import RULE, clock, domains, loop
from tests.unit.policy.files import write

__all__ = ["clock", "loop"]

CALLERS = """\
callers:
  - {san: edge.internal, domains: [a], methods: all}
"""


def sans(loop: PolicyLoop) -> list[str] | None:
    callers = loop.holder.callers
    return None if callers is None else [text for _, text in callers.sans]


async def test_callers_come_change_and_go_with_the_policy(
    loop: PolicyLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    loop.unguarded = "0.0.0.0:8080"

    # given no file
    await loop.load()
    found = [sans(loop)]

    # when it comes, changes, and goes
    write(tmp_path / "callers.yaml", CALLERS)
    await loop.reload()
    found.append(sans(loop))
    write(tmp_path / "callers.yaml", CALLERS.replace("edge", "other"))
    await loop.reload()
    found.append(sans(loop))
    (tmp_path / "callers.yaml").unlink()
    await loop.reload()
    found.append(sans(loop))

    # then each is in force in its time, and said once
    assert found == [None, ["edge.internal"], ["other.internal"], None]
    told = [record.getMessage() for record in caplog.records if "callers" in record.getMessage()]
    assert [line.split(":")[0] for line in told] == [
        "no callers.yaml",
        "callers.yaml in force",
        "callers.yaml says who may call on the gRPC port; /json on 0.0.0.0",
        "callers.yaml is gone",
    ]


async def test_broken_callers_leave_the_last_good_ones_and_the_policy(
    loop: PolicyLoop, tmp_path: Path
) -> None:
    write(tmp_path / "callers.yaml", CALLERS)
    await loop.load()
    before = loop.holder.callers

    write(tmp_path / "callers.yaml", CALLERS + "  - {}\n")
    write(tmp_path / "a.yaml", f"domain: b\n{RULE}")
    await loop.reload()

    assert loop.holder.callers is before
    assert domains(loop) == ["a"]
    assert loop.holder.load_error.startswith("callers.yaml:3:5: callers[1].domains: is missing")


async def test_callers_that_come_without_client_certificates_are_an_error(
    loop: PolicyLoop, tmp_path: Path
) -> None:
    loop.options = CompileOptions(knows_callers=False)
    await loop.load()
    write(tmp_path / "callers.yaml", CALLERS)

    await loop.reload()

    assert loop.holder.callers is None
    assert "nobody can be told apart" in loop.holder.load_error
    with pytest.raises(PolicyError, match="nobody can be told apart"):
        await loop.load()
