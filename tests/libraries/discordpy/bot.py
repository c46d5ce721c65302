"""A discord.py bot for `../run`: tells what the library sees as JSON lines, and obeys the lines it reads.

It does not judge; it uses nothing of the library but its public interface and the two constants that name Discord.
"""

import asyncio
import json
import logging
import os
import sys

import discord
import yarl

PREFIX = os.environ["PREFIX"]


def tell(**line):
    print(json.dumps(line), flush=True)


class Bot(discord.AutoShardedClient):
    def __init__(self):
        # The number of shards comes from /gateway/bot. Chunks are asked for by a command, once per guild.
        super().__init__(intents=discord.Intents.all(), chunk_guilds_at_startup=False)

    async def setup_hook(self):
        self.listener = asyncio.create_task(self.obey())

    async def on_shard_connect(self, shard):
        tell(event="ready", shard=shard)

    async def on_shard_resumed(self, shard):
        tell(event="resumed", shard=shard)

    async def on_ready(self):
        tell(event="all_ready")

    async def on_message(self, message):
        if message.content.startswith(PREFIX):
            tell(event="message", shard=message.guild.shard_id, number=int(message.content[len(PREFIX) :]))

    async def on_error(self, event, *args, **kwargs):
        tell(event="trouble", text=f"{event}: {sys.exc_info()[1]!r}")

    async def obey(self):
        while line := await asyncio.to_thread(sys.stdin.readline):
            match line.split():
                case ["guilds"]:
                    tell(event="guilds", guilds=[portrait(guild) for guild in self.guilds])
                case ["state"]:
                    tell(event="state", guilds=[state(guild) for guild in self.guilds])
                case ["members", guild_id]:
                    asyncio.create_task(self.tell_members(int(guild_id)))
                case ["close"]:
                    return await self.close()

    async def tell_members(self, guild_id):
        members = await self.get_guild(guild_id).chunk()
        tell(event="members", guild=str(guild_id), ids=[str(member.id) for member in members])


def names(objects):
    return [[str(it.id), it.name] for it in objects]


def portrait(guild):
    if guild.unavailable:
        return {"id": str(guild.id), "unavailable": True}
    return {
        "id": str(guild.id),
        "name": guild.name,
        "member_count": guild.member_count,
        "channels": names(guild.channels),
        "threads": names(guild.threads),
        "roles": names(guild.roles),
        "emojis": names(guild.emojis),
    }


def state(guild):
    """The cache of a guild, as much of it as both libraries have."""
    if guild.unavailable:
        return {"id": str(guild.id), "unavailable": True}
    return {
        "id": str(guild.id),
        "name": guild.name,
        "member_count": guild.member_count,
        "channels": [
            [str(it.id), it.name, it.type.value, it.position, str(it.category_id), getattr(it, "topic", None)]
            for it in guild.channels
        ],
        "threads": [
            [str(it.id), it.name, str(it.parent_id), it.locked] for it in guild.threads if not it.archived
        ],
        "roles": [
            [str(it.id), it.name, it.position, str(it.permissions.value), it.color.value, it.hoist, it.managed]
            for it in guild.roles
        ],
        "members": [
            [str(it.id), it.name, it.global_name, it.nick, it.joined_at.isoformat(), it.pending]
            + sorted(str(role.id) for role in it.roles)
            for it in guild.members
        ],
        "emojis": [[str(it.id), it.name, it.animated, it.available] for it in guild.emojis],
        "stickers": [[str(it.id), it.name] for it in guild.stickers],
        "voice": [
            [str(id), str(voice.channel.id), voice.self_mute]
            for channel in guild.voice_channels
            for id, voice in channel.voice_states.items()
        ],
        "avatars": [[str(it.id), it.avatar.key if it.avatar else None] for it in guild.members],
        "voice_sessions": [
            [str(id), voice.session_id] for channel in guild.voice_channels for id, voice in channel.voice_states.items()
        ],
    }


class Tell(logging.Handler):
    """What the library logs as a warning or worse, except that it reconnects, is trouble."""

    def emit(self, record):
        if "Attempting a reconnect" not in record.getMessage():
            tell(event="trouble", text=record.getMessage())


if __name__ == "__main__":
    discord.http.Route.BASE = f"{os.environ['API']}/api/v10"
    discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(os.environ["GATEWAY"])
    Bot().run(os.environ["TOKEN"], log_handler=Tell(), log_level=logging.WARNING)
