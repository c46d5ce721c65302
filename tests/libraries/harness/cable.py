"""The cable between a library and the gateway: a TCP forwarder that can be cut.

It does not look at what it carries, except for the first line of each connection.
"""

import asyncio
import socket
import struct

CHUNK_BYTES = 64 * 1024
# On close, forget what is unsent and answer RST: what a crashed process or a lost network looks like.
LINGER_NONE = struct.pack("ii", 1, 0)


class Cable:
    def __init__(self):
        self.url = None
        # First line of every request, for example `GET /?v=10&encoding=json HTTP/1.1`.
        self.requests = []
        self._gateway = None
        self._lines = set()

    async def open(self):
        """Listens on a free port of loopback. What connects before `plug` is refused by closing."""
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def plug(self, host, port):
        self._gateway = (host, port)

    def cut(self):
        """Cuts every connection in the middle of the next chunk that the gateway sends; answers how many.

        Each gets half of that chunk, so that most cuts fall inside a frame; then both ends get RST.
        """
        for line in self._lines:
            line.is_to_be_cut = True
        return len(self._lines)

    async def _carry(self, bot_reader, bot_writer):
        if self._gateway is None:
            return bot_writer.close()
        try:
            reader, writer = await asyncio.open_connection(*self._gateway)
        except OSError:
            # Nobody listens there now: the bot finds that out.
            return bot_writer.close()
        line = Line(bot_writer, writer)
        self._lines.add(line)
        try:
            first = await bot_reader.readline()
            self.requests.append(first.decode().strip())
            writer.write(first)
            # The first direction to end takes the other with it, as both bots and gateways close at once.
            directions = [
                asyncio.create_task(line.carry_up(bot_reader)),
                asyncio.create_task(line.carry_down(reader)),
            ]
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            for direction in directions:
                direction.cancel()
        finally:
            self._lines.discard(line)
            bot_writer.close()
            writer.close()


class Line:
    """One connection that the cable carries."""

    def __init__(self, to_bot, to_gateway):
        self.to_bot = to_bot
        self.to_gateway = to_gateway
        self.is_to_be_cut = False

    async def carry_up(self, reader):
        while chunk := await read(reader):
            self.to_gateway.write(chunk)

    async def carry_down(self, reader):
        while chunk := await read(reader):
            if self.is_to_be_cut:
                self.to_bot.write(chunk[: len(chunk) // 2])
                for end in (self.to_bot, self.to_gateway):
                    end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
                    end.transport.abort()
                return
            self.to_bot.write(chunk)


async def read(reader):
    """The next bytes; nothing when the connection has ended, in whatever way."""
    try:
        return await reader.read(CHUNK_BYTES)
    except OSError:
        return b""
