"""grpcio's two clients, told as the programs in other languages are."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import grpc
import grpc.aio

from tests.transport.clients.plan import BYTES, TEXT, Call, Seen, to_line, to_ok

OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


def ask_by_threads(address: str, calls: Sequence[Call]) -> Seen:
    """Ask by grpcio's client for threads."""
    with grpc.insecure_channel(address, OPTIONS) as channel:
        return {call.name: _ask_at_once(channel, call) for call in calls}


def ask_by_asyncio(address: str, calls: Sequence[Call]) -> Seen:
    """Ask by grpcio's client for asyncio."""
    return asyncio.run(_ask_all(address, calls))


def _ask_at_once(channel: grpc.Channel, call: Call) -> Counter[str]:
    method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(call.path)
    pending = [
        method.future(
            call.message,
            timeout=call.timeout_ms / 1000,
            metadata=_metadata(call),
            compression=_compression(call),
        )
        for _ in range(call.repeats)
    ]
    if call.is_cancelled:
        for each in pending:
            each.cancel()
    return Counter(
        to_ok(each.result())
        if each.code() is grpc.StatusCode.OK
        else to_line(each.code().name, each.details() or "")
        for each in pending
    )


async def _ask_all(address: str, calls: Sequence[Call]) -> Seen:
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        return {
            call.name: Counter(
                await asyncio.gather(*(_ask(channel, call) for _ in range(call.repeats)))
            )
            for call in calls
        }


async def _ask(channel: grpc.aio.Channel, call: Call) -> str:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(call.path)
    pending = method(
        call.message,
        timeout=call.timeout_ms / 1000,
        metadata=_metadata(call),
        compression=_compression(call),
    )
    if call.is_cancelled:
        await asyncio.sleep(0)
        pending.cancel()
    try:
        return to_ok(await pending)
    except grpc.aio.AioRpcError as error:
        return to_line(error.code().name, error.details() or "")
    except asyncio.CancelledError:
        return to_line("CANCELLED", "")


def _metadata(call: Call) -> tuple[tuple[str, str | bytes], ...]:
    text = ((TEXT, "v" * call.text_bytes),) if call.text_bytes else ()
    binary = ((BYTES, b"\xff" * call.binary_bytes),) if call.binary_bytes else ()
    return (*text, *binary)


def _compression(call: Call) -> grpc.Compression:
    return grpc.Compression.Gzip if call.is_gzip else grpc.Compression.NoCompression
