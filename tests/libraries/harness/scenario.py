"""What a library must live through, and the checks, one printed line each."""

import json
from functools import partial

from .processes import exit_status
from .stage import SHARDS

MESSAGES = 1000  # On each shard.
CUT_AT = 400  # Of the library's connections.
DROP_AT = 700  # Of the proxy's connections, by Discord: the library must not notice.
NOISE_PER_S = 200  # Other events between the messages, of every kind.
MEMBERS = 2500

START_S = 60  # discord.py waits 5 s between two shards, and 2 s after the last guild.
DELIVERY_S = 60
MEMBERS_S = 30


class Tally:
    def __init__(self):
        self.passed = 0
        self.failed = 0

    def check(self, library, sentence, is_true, detail=""):
        """Prints one line, with `detail` only when the sentence is false."""
        self.passed += bool(is_true)
        self.failed += not is_true
        note = f": {shorten(detail)}" if detail and not is_true else ""
        print(f"{'ok  ' if is_true else 'FAIL'} {library:<10} {sentence}{note}", flush=True)
        return is_true


def shorten(detail, limit=600):
    text = detail if isinstance(detail, str) else json.dumps(detail, ensure_ascii=False)
    return text if len(text) <= limit else text[:limit] + " …"


async def play(library, stage, tally):
    """Runs one library from READY to its clean end."""
    check = partial(tally.check, library.name)
    bot = await stage.start_bot(library)
    is_up = await bot.until(lambda: bot.is_all_ready, START_S)
    if not check("is ready", is_up, {"READY": bot.ready, "trouble": bot.trouble}):
        return
    await check_guilds(bot, stage, check)
    await check_messages(bot, stage, check)
    await check_members(bot, stage, check)
    bot.say("close")
    status = await exit_status(bot.process)
    check_connections(library, stage, check)
    check("ends by itself with status 0 once it was closed", status == 0, f"status {status}")
    check("READY came once on each shard", sorted(bot.ready) == list(range(SHARDS)), bot.ready)
    check("reports no error", not bot.trouble, bot.trouble)
    await check_discord(stage, check)
    if stage.proxy:
        await check_proxy(stage, check)


def check_connections(library, stage, check):
    requests = stage.cable.requests
    wanted = f"compress={library.compress}" if library.compress else "no compress="
    fit = [it for it in requests if (wanted in it if library.compress else "compress=" not in it)]
    is_right = len(requests) == len(fit) == 2 * SHARDS
    check(f"connected twice for each shard, with {wanted}", is_right, requests)


async def check_guilds(bot, stage, check):
    """The library's cache against what the witness was shown: ids, names, channels, threads, roles, emojis."""
    wanted = {guild["id"]: in_order(guild) for shown in stage.shown for guild in shown.guilds}
    bot.say("guilds")
    await bot.until(lambda: bot.guilds is not None, START_S)
    found = {guild["id"]: in_order(guild) for guild in bot.guilds or []}
    differ = {id: differences(wanted.get(id, {}), found.get(id, {})) for id in wanted.keys() | found.keys()}
    differ = {id: it for id, it in differ.items() if it}
    outages = sum("unavailable" in guild for guild in wanted.values())
    sentence = f"has all {len(wanted)} guilds in its cache as Discord shows them, {outages} of them in an outage"
    check(sentence, not differ, {"[wanted, found]": differ})


def differences(wanted, found):
    """The keys that differ, each with what was wanted and what was found."""
    keys = wanted.keys() | found.keys()
    return {key: [wanted.get(key), found.get(key)] for key in keys if wanted.get(key) != found.get(key)}


def in_order(portrait):
    return {key: sorted(value) if isinstance(value, list) else value for key, value in portrait.items()}


async def check_messages(bot, stage, check):
    """Numbered messages on each shard between other traffic, the connections cut on the way."""
    await stage.order(f"rate?events_per_s={NOISE_PER_S}")
    cut = 0
    for number in range(MESSAGES):
        for shard in range(SHARDS):
            await stage.emit(shard, "MESSAGE_CREATE", message(stage.shown[shard], number))
        if number == CUT_AT:
            cut = stage.cable.cut()
        if number == DROP_AT and stage.proxy:
            await stage.order("drop?shard=all")
    await stage.order("rate?events_per_s=0")
    check(f"was cut off on {SHARDS} connections", cut == SHARDS, f"{cut}")

    def is_over():
        # RESUMED may come after the last message, when a library took its time to connect again.
        has_last = (MESSAGES - 1 in bot.messages.get(shard, [])[-1:] for shard in range(SHARDS))
        return len(bot.resumed) >= SHARDS and all(has_last)

    await bot.until(is_over, DELIVERY_S)
    for shard in range(SHARDS):
        check_order(bot.messages.get(shard, []), shard, check)
    check("resumed each session by itself, once", sorted(bot.resumed) == list(range(SHARDS)), bot.resumed)


def check_order(numbers, shard, check):
    lost = sorted(set(range(MESSAGES)) - set(numbers))
    doubled = sorted({it for it in numbers if numbers.count(it) > 1})
    detail = {"seen": len(numbers), "lost": lost, "doubled": doubled}
    sentence = f"saw {MESSAGES:,} messages of shard {shard} once each and in order across the cut"
    check(sentence, numbers == list(range(MESSAGES)), detail)


def message(shown, number):
    guild, channel = shown.room
    author = {"id": "175928847299117063", "username": "tester", "discriminator": "0", "global_name": None,
              "avatar": None}
    member = {"roles": [], "joined_at": "2021-03-04T05:06:07.080000+00:00", "deaf": False, "mute": False, "flags": 0,
              "nick": None, "avatar": None}
    return {
        "type": 0, "tts": False, "timestamp": "2026-11-22T00:00:00.000000+00:00", "pinned": False, "mentions": [],
        "mention_roles": [], "mention_everyone": False, "member": member, "id": str((360_000_000_000 << 22) + number),
        "flags": 0, "embeds": [], "edited_timestamp": None, "content": f"check {number}", "components": [],
        "channel_id": channel, "author": author, "attachments": [], "guild_id": guild,
    }


async def check_members(bot, stage, check):
    """Op 8 for the large guild of each shard, all asked for at once."""
    guilds = [it["id"] for shown in stage.shown for it in shown.guilds if it.get("member_count", 0) >= MEMBERS]
    for guild in guilds:
        bot.say(f"members {guild}")
    await bot.until(lambda: len(bot.members) == len(guilds), MEMBERS_S)
    counts = {guild: len(set(bot.members.get(guild, []))) for guild in guilds}
    repeats = any(len(ids) != len(set(ids)) for ids in bot.members.values())
    is_whole = len(guilds) == SHARDS and all(it == MEMBERS for it in counts.values()) and not repeats
    check(f"got {MEMBERS:,} members of {SHARDS} guilds by op 8", is_whole, counts)


async def check_discord(stage, check):
    """What the fake Discord has counted: the rules were kept, and nobody identified without need."""
    stats = await stage.stats()
    for key in ("violations", "invalid_sessions", "closes_sent", "rate_limited"):
        check(f"Discord counts no {key.replace('_', ' ')}", not stats[key], [stats[key], stats["violations_recent"]])
    # The witness was there first, once on each shard. Whoever holds the sessions is cut off once on each.
    identifies = stats["identifies"] - SHARDS
    found = {key: stats[key] for key in ("identifies", "resumes", "drops", "closes_received")}
    is_right = identifies == stats["resumes"] == stats["drops"] == SHARDS
    check(f"Discord saw {SHARDS} IDENTIFYs and, after {SHARDS} cuts, {SHARDS} RESUMEs", is_right, found)


async def check_proxy(stage, check):
    health = await stage.proxy_status("/health")
    check("left the proxy healthy", health == 200, f"/health answers {health}")
    stats = await stage.stats()
    kept = [len(it["sessions"]) for it in stats["shards"]]
    # Only the witness has closed.
    is_kept = kept == [1] * SHARDS and stats["closes_received"] == {"1000": SHARDS}
    check("left Discord's sessions with the proxy", is_kept, [stats["shards"], stats["closes_received"]])
    status = await stage.processes.end(stage.proxy)
    check("saw a proxy that ends with status 0", status == 0, f"status {status}")
