"""What a connection keeps, looked at from the inside, where its peer cannot see."""
# ruff: noqa: SLF001

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.connection import Connection
from ratelimitd.transport.h2.dispatch import REMEMBERED_GAPS
from ratelimitd.transport.h2.headers import MAX_CONSTANTS, MAX_SHAPES
from ratelimitd.transport.h2.lifecycle import REMEMBERED_RESETS
from ratelimitd.transport.h2.profile import Profile


def check_memory(connection: Connection, profile: Profile) -> None:
    """Assert that what is kept is counted right, and within every bound."""
    bounds = profile.bounds
    intake, out = connection._intake, connection._out
    kept = sum(each.kept_bytes for each in intake.streams.values())
    waiting = sum(len(each.body) for each in out.waiting.values())
    assert (intake.kept_bytes, out.waiting_bytes) == (kept, waiting), "bytes are miscounted"
    assert kept <= bounds.buffered_request_bytes
    assert waiting <= bounds.buffered_answer_bytes
    assert len(connection._block) <= bounds.header_block_bytes
    assert len(connection._tail) < frames.HEADER_LENGTH + frames.DEFAULT_FRAME_SIZE
    assert connection.buffered_bytes == (
        kept + waiting + len(connection._block) + len(connection._tail)
    )
    busy = len(intake.streams) + len(out.waiting) + len(out.awaiting)
    assert busy <= bounds.concurrent_streams
    assert len(connection._blocks) <= bounds.remembered_blocks
    assert len(connection._our_resets) <= REMEMBERED_RESETS
    assert len(connection._gaps) <= REMEMBERED_GAPS
    assert connection._decoder.table_size <= 4096
    assert intake.early == []
    heads = profile.heads
    assert len(heads._shapes) <= MAX_SHAPES
    assert len(heads._constants) <= MAX_CONSTANTS


def check_windows(connection: Connection) -> None:
    """Assert that no answer waits for a window that is open."""
    out = connection._out
    if out._window > 0:
        windows = [out._initial + answer.delta for answer in out.waiting.values()]
        assert max(windows, default=0) <= 0, "an answer waits behind open windows"
