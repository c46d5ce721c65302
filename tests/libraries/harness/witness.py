"""Reads the guilds of one shard straight from the fake Discord, without any library: what the libraries must find.

A client of few lines: text frames, no compression, no heartbeat; it is gone within a second.
"""

import asyncio
import base64
import json
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from .http import read_head

TIMEOUT_S = 20
TEXT_CHANNEL = 0


@dataclass
class Shown:
    """What Discord shows to one shard."""

    # READY's own user.
    user: dict = None
    # A portrait of each guild.
    guilds: list = field(default_factory=list)
    # A text channel and its guild, by id.
    room: tuple = None


async def read_guilds(gateway_url, token, shard, shards, intents):
    """Identifies, and answers what was `Shown`. The session is ended with 1000."""
    parts = urlsplit(gateway_url)
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /?v=10&encoding=json HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        await read_head(reader)
        identify = {"token": token, "properties": {}, "intents": intents, "shard": [shard, shards]}
        writer.write(frame(0x1, json.dumps({"op": 2, "d": identify}).encode()))
        try:
            return await collect(reader)
        finally:
            writer.write(frame(0x8, (1000).to_bytes(2, "big")))
            await writer.drain()
            writer.close()


async def collect(reader):
    shown, awaited = Shown(), None
    while awaited is None or awaited:
        payload = await next_payload(reader)
        d = payload["d"]
        match payload["t"]:
            case "READY":
                shown.user, awaited = d["user"], {guild["id"] for guild in d["guilds"]}
            case "GUILD_CREATE" | "GUILD_DELETE":
                awaited.remove(d["id"])
                shown.guilds.append(portrait(d))
                channels = (it["id"] for it in d.get("channels", []) if it["type"] == TEXT_CHANNEL)
                shown.room = shown.room or next(((d["id"], channel) for channel in channels), None)
    return shown


def portrait(guild):
    """A guild as every bot tells it; the order of the lists is nobody's business."""
    if guild.get("unavailable"):
        return {"id": guild["id"], "unavailable": True}
    scalars = {key: guild[key] for key in ("id", "name", "member_count")}
    lists = ("channels", "threads", "roles", "emojis")
    return scalars | {key: [[it["id"], it["name"]] for it in guild[key]] for key in lists}


def frame(opcode, payload):
    """One masked frame, with a mask of zeros: legal, and the payload needs no work."""
    assert len(payload) < 65536
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


async def next_payload(reader):
    """The next text message as JSON; the fake Discord does not fragment."""
    while True:
        first, length = await reader.readexactly(2)
        if length >= 126:
            length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
        payload = await reader.readexactly(length)
        match first & 0x0F:
            case 0x1:
                return json.loads(payload)
            case 0x8:
                raise ConnectionError(f"the fake Discord closed the witness: {payload!r}")
