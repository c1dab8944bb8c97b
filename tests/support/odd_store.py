"""A real server that speaks the store's protocol, and answers scripts as no store of ours does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import chain, repeat

import hiredis

# Replies to a script that was asked about one check.
ODD_REPLIES = {
    "a status": b"+OK\r\n",
    "nil": b"$-1\r\n",
    "an integer": b":1\r\n",
    "an empty list": b"*0\r\n",
    "an error in the list": b"*4\r\n:1\r\n:0\r\n-ERR odd\r\n$0\r\n\r\n",
    "more plans than asked": b"*4\r\n:1\r\n:0\r\n*9\r\n" + b":0\r\n" * 9 + b"$0\r\n\r\n",
    "fewer checks than asked": b"*4\r\n:1\r\n:0\r\n*1\r\n:0\r\n$0\r\n\r\n",
    "half a check": b"*4\r\n:1\r\n:0\r\n*1\r\n:0\r\n$3\r\nabc\r\n",
}
LOADING = b"-LOADING the dataset is loaded into memory\r\n"
HANG_UP = b""


class OddStore:
    """Answers each script with the next of `replies`, and then with the last one again."""

    def __init__(self, *replies: bytes) -> None:
        self.scripts = 0
        self.port = 0
        self._replies = chain(replies, repeat(replies[-1]))
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        commands = hiredis.Reader()
        while data := await reader.read(65_536):
            commands.feed(data)
            while (command := commands.gets()) is not False:
                reply = self._reply(command[0])
                if reply == HANG_UP:
                    writer.close()
                    return
                writer.write(reply)

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def _reply(self, name: bytes) -> bytes:
        if name == b"EVALSHA":
            self.scripts += 1
            return next(self._replies)
        if name == b"CLUSTER":
            # All slots are ours, at the address that was asked.
            return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$0\r\n\r\n:%d\r\n" % self.port
        return b"+OK\r\n"


@asynccontextmanager
async def odd_store(*replies: bytes) -> AsyncIterator[OddStore]:
    """Serve on a free port of this loop."""
    store = OddStore(*replies)
    server = await asyncio.start_server(store.serve, "127.0.0.1", 0)
    async with server:
        store.port = server.sockets[0].getsockname()[1]
        try:
            yield store
        finally:
            await store.close()
