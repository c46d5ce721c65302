"""Child processes: started, awaited, and ended by id on every way out. What they print goes to a log each."""

import asyncio
import json
import signal

END_S = 15
# Longest line of a bot: one that lists all members of a guild has some 60 kB.
LINE_BYTES_MAX = 16 * 1024 * 1024


class Processes:
    """Use as `async with`: on the way out every child that still runs is killed and reaped."""

    def __init__(self, logs):
        self._logs = logs
        self._running = []

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for process in self._running:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def start(self, name, command, env=None, talks=False):
        """Starts `command`, its output going to `NAME.log`; with `talks`, input and output are pipes instead."""
        with open(self._logs / f"{name}.log", "ab") as log:
            process = await asyncio.create_subprocess_exec(
                *map(str, command),
                env=env,
                stdin=asyncio.subprocess.PIPE if talks else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if talks else log,
                stderr=log,
                limit=LINE_BYTES_MAX,
            )
        self._running.append(process)
        return process

    async def end(self, process):
        """SIGTERM; answers the exit status, or None when it had to be killed after 15 s."""
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        return await exit_status(process)


async def exit_status(process):
    """Waits for the end of `process`; None when it had to be killed after 15 s."""
    try:
        async with asyncio.timeout(END_S):
            return await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None


class Bot:
    """A bot of one library: commands down its standard input, JSON lines up from its standard output."""

    def __init__(self, process):
        self.process = process
        self.ready = []
        self.resumed = []
        self.trouble = []
        # Numbers of the messages seen, in order, by shard.
        self.messages = {}
        self.members = {}
        self.guilds = None
        # The library's whole cache, when it was asked for.
        self.state = None
        self.is_all_ready = False
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    def say(self, command):
        self.process.stdin.write(f"{command}\n".encode())

    async def until(self, condition, timeout_s):
        """Waits until `condition()` holds; answers whether it did before the time was over or the bot ended."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    if self._reader.done():
                        return False
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _read(self):
        try:
            async for line in self.process.stdout:
                try:
                    self._on_line(json.loads(line))
                except json.JSONDecodeError:
                    self.trouble.append(line.decode(errors="replace").strip())
                self._changed.set()
        finally:
            self._changed.set()

    def _on_line(self, line):
        match line["event"]:
            case "ready":
                self.ready.append(line["shard"])
            case "resumed":
                self.resumed.append(line["shard"])
            case "all_ready":
                self.is_all_ready = True
            case "guilds":
                self.guilds = line["guilds"]
            case "state":
                self.state = line["guilds"]
            case "message":
                self.messages.setdefault(line["shard"], []).append(line["number"])
            case "members":
                self.members[line["guild"]] = line["ids"]
            case "trouble":
                self.trouble.append(line["text"])
