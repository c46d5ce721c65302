"""A library whose proxy is killed with SIGKILL among its messages and started again on the same `data_dir`."""

from functools import partial

from .processes import exit_status
from .scenario import MESSAGES, NOISE_PER_S, START_S, check_order, message
from .stage import SHARDS, Stage

KILL_AT = 500
# A library may wait before it connects again, longer each time that nobody answers.
DELIVERY_S = 120


class Killed(Stage):
    """A stage whose proxy writes down what it holds."""

    def more_keys(self):
        data = self.folder / "data"
        data.mkdir()
        return {"data_dir": str(data)}

    async def kill_proxy(self):
        """SIGKILL, and a new process at once; it is not waited for."""
        self.proxy.kill()
        await self.proxy.wait()
        self.proxy = await self.processes.start("shardgate", self.proxy_command)


async def play(library, stage, tally):
    """READY, numbered messages between other traffic with the proxy's death among them, a clean end."""
    check = partial(tally.check, library.name)
    bot = await stage.start_bot(library)
    if not check("is ready", await bot.until(lambda: bot.is_all_ready, START_S), [bot.ready, bot.trouble]):
        return
    await stage.order(f"rate?events_per_s={NOISE_PER_S}")
    for number in range(MESSAGES):
        if number == KILL_AT:
            await stage.kill_proxy()
        for shard in range(SHARDS):
            await stage.emit(shard, "MESSAGE_CREATE", message(stage.shown[shard], number))
    await stage.order("rate?events_per_s=0")

    def is_over():
        has_last = (MESSAGES - 1 in bot.messages.get(shard, [])[-1:] for shard in range(SHARDS))
        return len(bot.resumed) >= SHARDS and all(has_last)

    await bot.until(is_over, DELIVERY_S)
    for shard in range(SHARDS):
        check_order(bot.messages.get(shard, []), shard, check)
    check("resumed each session after the proxy was killed", sorted(bot.resumed) == list(range(SHARDS)), bot.resumed)
    check("READY came once on each shard", sorted(bot.ready) == list(range(SHARDS)), bot.ready)
    stats = await stage.stats()
    found = {key: stats[key] for key in ("identifies", "resumes", "violations")}
    # The witness identified first, once on each shard.
    is_right = stats["identifies"] == 2 * SHARDS and stats["resumes"] == SHARDS and not stats["violations"]
    check(f"Discord saw {SHARDS} IDENTIFYs and, after the kill, {SHARDS} RESUMEs", is_right, found)
    bot.say("close")
    await exit_status(bot.process)
    status = await stage.processes.end(stage.proxy)
    check("saw a proxy that ends with status 0", status == 0, f"status {status}")
