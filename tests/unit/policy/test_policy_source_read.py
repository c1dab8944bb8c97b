import errno
import os
from pathlib import Path

import pytest

from ratelimitd import policy_source
from ratelimitd.errors import ConfigError
from ratelimitd.policy_source import DirectorySource, UnreadableFiles
from tests.unit.policy.files import mount, swap, write


def test_read_names_files_by_their_path_below_the_root(tmp_path: Path) -> None:
    write(tmp_path / "b.yaml", "1")
    write(tmp_path / "team" / "a", "2")
    write(tmp_path / ".draft.yaml", "3")
    write(tmp_path / ".git" / "config", "4")

    assert DirectorySource(tmp_path).read() == {"b.yaml": b"1", "team/a": b"2"}


def test_read_takes_dotfiles_when_told(tmp_path: Path) -> None:
    write(tmp_path / ".draft.yaml", "3")

    source = DirectorySource(tmp_path, ignore_dotfiles=False)

    assert source.read() == {".draft.yaml": b"3"}


@pytest.mark.parametrize("ignore_dotfiles", [True, False])
def test_read_takes_a_kubernetes_mount_once(tmp_path: Path, ignore_dotfiles: bool) -> None:
    mount(tmp_path)

    source = DirectorySource(tmp_path, ignore_dotfiles=ignore_dotfiles)

    assert source.read() == {"api.yaml": b"one"}


def test_read_of_a_directory_without_files_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / ".draft.yaml", "1")

    with pytest.raises(ConfigError, match="has no policy files; put at least one there"):
        DirectorySource(tmp_path).read()


def test_read_takes_a_single_file(tmp_path: Path) -> None:
    write(tmp_path / "api.yaml", "1")

    assert DirectorySource(tmp_path / "api.yaml").read() == {"api.yaml": b"1"}


def test_read_of_a_single_file_takes_the_callers_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "api.yaml", "1")
    write(tmp_path / "other.yaml", "2")
    source = DirectorySource(tmp_path / "api.yaml")
    before = source.take()

    write(tmp_path / "callers.yaml", "3")

    after = source.take()
    assert after.files() == {"api.yaml": b"1", "callers.yaml": b"3"}
    assert before.signature != after.signature
    assert tmp_path in source._watched()  # noqa: SLF001 - events there mean a change


@pytest.mark.parametrize("how", ["directory", "broken link"])
def test_read_of_callers_that_cannot_be_read_is_an_error(tmp_path: Path, how: str) -> None:
    write(tmp_path / "api.yaml", "1")
    if how == "directory":
        (tmp_path / "callers.yaml").mkdir()
    else:
        (tmp_path / "callers.yaml").symlink_to("gone")

    with pytest.raises(UnreadableFiles, match=r"callers\.yaml: is ") as caught:
        DirectorySource(tmp_path / "api.yaml").read()

    assert caught.value.files == {"api.yaml": b"1"}


@pytest.mark.parametrize("root", [".", "callers.yaml"])
def test_read_of_callers_alone_is_no_policy(tmp_path: Path, root: str) -> None:
    write(tmp_path / "callers.yaml", "1")

    with pytest.raises(ConfigError, match="has no policy files"):
        DirectorySource(tmp_path / root).read()


def test_read_follows_linked_directories_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a", "1")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "linked").symlink_to("../elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to("../root")

    assert DirectorySource(tmp_path / "root").read() == {"linked/a": b"1"}


def test_read_replaces_what_is_no_text_in_a_name(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.yaml")).write_text("1")

    assert DirectorySource(tmp_path).read() == {"\N{REPLACEMENT CHARACTER}.yaml": b"1"}


def test_read_missing_directory_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere does not exist; name a directory"):
        DirectorySource(tmp_path / "nowhere").read()


def test_read_broken_link_names_its_target(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("gone.yaml")

    with pytest.raises(ConfigError, match=r"a\.yaml: is a symlink to gone\.yaml, which does not"):
        DirectorySource(tmp_path).read()


def test_read_link_to_itself_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")

    with pytest.raises(ConfigError, match="loop"):
        DirectorySource(tmp_path / "loop").read()
    with pytest.raises(ConfigError, match="loop"):
        DirectorySource(tmp_path).read()


def test_read_tells_of_everything_unreadable_beside_what_was_read(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "1")
    write(tmp_path / "team" / "c.yaml", "3")
    (tmp_path / "b.yaml").symlink_to("gone")
    (tmp_path / "team" / "d.yaml").symlink_to("d.yaml")

    with pytest.raises(UnreadableFiles) as caught:
        DirectorySource(tmp_path).read()

    assert caught.value.files == {"a.yaml": b"1", "team/c.yaml": b"3"}
    assert str(caught.value).splitlines() == [
        "b.yaml: is a symlink to gone, which does not exist",
        "team/d.yaml: is a symlink that leads to itself",
    ]


def test_read_refuses_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ConfigError, match="pipe: is neither a file nor a directory"):
        DirectorySource(tmp_path).read()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["a.yaml", "team"])
def test_read_without_permission_is_a_config_error(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.yaml", "1")
    write(tmp_path / "team" / "b.yaml", "1")
    (tmp_path / name).chmod(0)

    try:
        with pytest.raises(ConfigError, match=f"{name}: cannot be read: permission denied"):
            DirectorySource(tmp_path).read()
    finally:
        (tmp_path / name).chmod(0o700)


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        ("policy_walk.MAX_FILES", "more than 1 files"),
        ("policy_walk.MAX_DIRECTORIES", "more than 1 directories"),
        ("policy_source.MAX_POLICY_BYTES", "more than 1 bytes"),
    ],
)
def test_read_stops_at_its_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, message: str
) -> None:
    monkeypatch.setattr(f"ratelimitd.{bound}", 1)
    write(tmp_path / "a.yaml", "1")
    write(tmp_path / "b" / "b.yaml", "1")

    with pytest.raises(ConfigError, match=message):
        DirectorySource(tmp_path).read()


def test_read_takes_one_byte_more_than_a_file_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_source, "MAX_FILE_BYTES", 3)
    write(tmp_path / "a.yaml", "123456")

    assert DirectorySource(tmp_path).read() == {"a.yaml": b"1234"}


def test_read_is_repeated_while_files_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a mount that is swapped between the reading of two files
    mount(tmp_path)
    write(tmp_path / "..2026_01_01" / "b.yaml", "one")
    write(tmp_path / "..2026_01_02" / "api.yaml", "two")
    write(tmp_path / "..2026_01_02" / "b.yaml", "two")
    (tmp_path / "b.yaml").symlink_to("..data/b.yaml")
    open_file = Path.open

    def open_after_swap(path: Path, mode: str) -> object:
        if path.name == "b.yaml":
            swap(tmp_path / "..data", "..2026_01_02")
        return open_file(path, mode)

    monkeypatch.setattr(Path, "open", open_after_swap)

    assert DirectorySource(tmp_path).read() == {"api.yaml": b"two", "b.yaml": b"two"}


def test_read_ends_though_files_never_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a", "")
    open_file, sizes = Path.open, iter(range(1, 1000))

    def open_after_growth(path: Path, mode: str) -> object:
        with open_file(path, "wb") as file:
            file.write(b"x" * next(sizes))
        return open_file(path, mode)

    monkeypatch.setattr(Path, "open", open_after_growth)

    assert DirectorySource(tmp_path).read() == {"a": b"x" * policy_source.READ_ATTEMPTS}


def test_read_is_repeated_when_a_file_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", "1")
    write(tmp_path / "b", "2")
    open_file = Path.open

    def open_after_removal(path: Path, mode: str) -> object:
        (tmp_path / "b").unlink(missing_ok=True)
        return open_file(path, mode)

    monkeypatch.setattr(Path, "open", open_after_removal)

    assert DirectorySource(tmp_path).read() == {"a": b"1"}


def test_read_failing_disk_is_a_config_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", "1")

    def fail(path: Path, _mode: str) -> object:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(Path, "open", fail)

    with pytest.raises(ConfigError, match="a: cannot be read: Input/output error"):
        DirectorySource(tmp_path).read()
