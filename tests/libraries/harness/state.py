"""What a library holds in its cache after 10,000 events, through the proxy and directly, object by object.

Three bots: one that was connected to Discord all the while, and two that come after the events, one to Discord and one to the
proxy. What the library makes of the state is its own business; that it makes the same of both ways is what is checked.
"""

import asyncio
from functools import partial

from .cable import Cable
from .http import RestStub
from .processes import exit_status
from .scenario import DELIVERY_S, START_S, message
from .stage import SHARDS, TOKEN, Stage, start_bot

EVENTS = 10_000
FAKE_DISCORD = {"big-guild": 0, "guilds": 6, "identify-limit": 1000}
# The libraries that can tell their cache.
LIBRARIES = ("discordjs", "discordpy")
# What a library keeps as it saw it first although Discord told it anew (seen in 2026-11): the user of a member who comes back,
# the session of who is in voice already. Only a bot that came late has them right.
STALE = {"discordpy": {"avatars", "voice_sessions"}, "discordjs": set()}


class Way:
    """One way to Discord, the library's REST included."""

    def __init__(self):
        self.cable = Cable()
        self.rest = RestStub(TOKEN)

    async def open(self, user, gateway_rest, port):
        await self.cable.open()
        await self.rest.open(user)
        self.rest.gateway_rest, self.rest.gateway_url = gateway_rest, self.cable.url
        self.cable.plug("127.0.0.1", port)


class Ways(Stage):
    """The fake Discord, the proxy, a way to each."""

    async def up(self):
        await self.cable.open()
        fake = await self._start_fake_discord(FAKE_DISCORD)
        self._admin = fake["admin"]
        await self.call_witness(fake["gateway"])
        port = await self._start_proxy(fake["rest"])
        self.cable.plug("127.0.0.1", port)
        self.direct, self.proxied = Way(), Way()
        discord_port = int(fake["gateway"].rsplit(":", 1)[1])
        await self.direct.open(self.shown[0].user, fake["rest"], discord_port)
        await self.proxied.open(self.shown[0].user, self.proxy_url, port)

    async def bot(self, library, name, way):
        return await start_bot(self, library, f"{library.name}-{name}", way.rest, way.cable)


async def play(library, stage, tally):
    """Runs one library's three bots from READY to their clean end."""
    check = partial(tally.check, library.name)
    early = await stage.bot(library, "early", stage.direct)
    if not check("is ready before the events", await early.until(lambda: early.is_all_ready, START_S), early.trouble):
        return
    await stage.order(f"live?events={EVENTS}")
    while (await stage.stats())["life_left"]:
        await asyncio.sleep(0.1)
    # Its number comes behind all events.
    await mark(stage, 0)
    check(f"has had {EVENTS:,} events", await has(early, 0), early.trouble)
    late, proxied = [await stage.bot(library, *it) for it in (("late", stage.direct), ("proxied", stage.proxied))]
    for bot in (late, proxied):
        check("is ready after the events", await bot.until(lambda: bot.is_all_ready, START_S), bot.trouble)
    await mark(stage, 1)
    bots = (early, late, proxied)
    for bot in bots:
        await has(bot, 1)
        bot.say("state")
        await bot.until(lambda: bot.state is not None, START_S)
    compare(proxied, late, "as a bot that comes to Discord itself", check, stale=set())
    compare(proxied, early, "as a bot that saw all events", check, STALE[library.name])
    for bot in bots:
        bot.say("close")
        check("ends by itself with status 0", await exit_status(bot.process) == 0)
    check("reports no error", not any(bot.trouble for bot in bots), [bot.trouble for bot in bots])


async def mark(stage, number):
    for shard in range(SHARDS):
        await stage.emit(shard, "MESSAGE_CREATE", message(stage.shown[shard], number))


async def has(bot, number):
    return await bot.until(lambda: all(number in bot.messages.get(it, []) for it in range(SHARDS)), DELIVERY_S)


def compare(bot, other, whom, check, stale):
    found, wanted = ({guild["id"]: guild for guild in it.state or []} for it in (bot, other))
    differ = {}
    for id in found.keys() | wanted.keys():
        for key in (found.get(id, {}).keys() | wanted.get(id, {}).keys()) - stale:
            a, b = (normal(it.get(id, {}).get(key)) for it in (wanted, found))
            if a != b:
                only = lambda x, y: [it for it in x if it not in y] if isinstance(x, list) else x
                differ[f"{id} {key}"] = {"wanted": only(a, b or []), "found": only(b, a or [])}
    keys = ("channels", "threads", "roles", "members", "emojis")
    counts = {key: sum(len(it.get(key, ())) for it in found.values()) for key in keys}
    told = ", ".join(f"{count} {key}" for key, count in counts.items())
    check(f"holds the same {len(found)} guilds ({told}) {whom}", found and not differ, differ)


def normal(value):
    return sorted(value, key=repr) if isinstance(value, list) else value
