"""Puts up what one scenario plays on: the fake Discord, the proxy if there is one, the cable and the REST stub."""

import asyncio
import json
import os
import socket

from . import witness
from .cable import Cable
from .http import RestStub, request
from .processes import Bot

TOKEN = "fake"
INTENTS = 53608447  # All documented ones.
SHARDS = 2
READY_S = 30

FAKE_DISCORD = {
    "shards": SHARDS,
    "guilds": 5,
    "members": 20,
    "outage-every": 2,  # One guild of shard 0 is unavailable.
    "max-concurrency": SHARDS,
    "identify-interval-ms": 20,  # Libraries identify one shard after the other.
    "heartbeat-interval-ms": 5000,  # So that every library beats a few times.
    "rate": 0,  # Until the guilds were compared.
    "token": TOKEN,
}
CACHE = ("channels", "presences", "emojis", "current_member", "members", "roles", "scheduled_events",
         "stage_instances", "stickers", "users", "voice_states")


class Stage:
    """`await up()`, then play. What runs on it ends with its `Processes`."""

    def __init__(self, processes, folder, shardgate, loadtest, backend):
        self.processes = processes
        self.folder = folder
        self.cable = Cable()
        self.rest = RestStub(TOKEN)
        # What the witness was shown, by shard.
        self.shown = []
        # The proxy's process and its HTTP address; None when the libraries talk to the fake Discord.
        self.proxy = None
        self.proxy_url = None
        self._shardgate = shardgate
        self._loadtest = loadtest
        self._backend = backend
        self._admin = None

    async def up(self):
        await self.cable.open()
        fake = await self._start_fake_discord()
        self._admin = fake["admin"]
        await self.call_witness(fake["gateway"])
        await self.rest.open(self.shown[0].user)
        if self._shardgate:
            port = await self._start_proxy(fake["rest"])
            self.rest.gateway_rest = self.proxy_url
        else:
            port = int(fake["gateway"].rsplit(":", 1)[1])
            self.rest.gateway_rest = fake["rest"]
            self.rest.gateway_url = self.cable.url
        self.cable.plug("127.0.0.1", port)

    async def call_witness(self, gateway):
        """Has every shard's guilds told to the witness. Whoever comes next need not wait for its IDENTIFYs to cool."""
        for shard in range(SHARDS):
            self.shown.append(await witness.read_guilds(gateway, TOKEN, shard, SHARDS, INTENTS))
        await self.order(f"limits?max_concurrency={SHARDS}")

    def more_keys(self):
        """Keys that a stage adds to the proxy's configuration."""
        return {}

    async def start_bot(self, library):
        return await start_bot(self, library, library.name, self.rest, self.cable)

    async def order(self, what, body=b""):
        """`POST /fake/WHAT` to the fake Discord."""
        status, answer = await request("POST", f"{self._admin}/fake/{what}", body)
        assert status == 200, f"/fake/{what} answered {status} {answer!r}"

    async def emit(self, shard, name, d):
        """One dispatch on `shard`; the fake Discord gives it the next sequence."""
        body = json.dumps({"t": name, "d": d}, separators=(",", ":"), ensure_ascii=False)
        await self.order(f"emit?shard={shard}", body.encode())

    async def stats(self):
        status, answer = await request("GET", f"{self._admin}/fake/stats")
        assert status == 200, f"/fake/stats answered {status}"
        return json.loads(answer)

    async def proxy_status(self, path):
        """The HTTP status of the proxy's answer; 0 when it does not answer."""
        try:
            return (await request("GET", self.proxy_url + path))[0]
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return 0

    async def _start_fake_discord(self, others=None):
        ready_file = self.folder / "discord.json"
        options = [f"--{name}={value}" for name, value in (FAKE_DISCORD | (others or {})).items()]
        if not self._shardgate:
            options.append(f"--resume-url={self.cable.url}")
        options.append(f"--ready-file={ready_file}")
        words = [word for option in options for word in option.split("=", 1)]
        process = await self.processes.start("discord", [self._loadtest, "discord", *words])
        await until(lambda: ready_file.exists(), process, "the fake Discord")
        return json.loads(ready_file.read_text())

    async def _start_proxy(self, rest_url):
        """Starts `shardgate` and waits until all its shards are live; answers its port."""
        port = free_port()
        config = {
            "token": TOKEN,
            "intents": INTENTS,
            "bind": "127.0.0.1",
            "port": port,
            "shards": SHARDS,
            "api_url": rest_url,
            "externally_accessible_url": self.cable.url,
            "backend": self._backend,
            "cache": dict.fromkeys(CACHE, True),
            **self.more_keys(),
        }
        path = self.folder / "config.json"
        path.write_text(json.dumps(config))
        self.proxy_url = f"http://127.0.0.1:{port}"
        self.proxy_command = [self._shardgate, "--config", path]
        self.proxy = await self.processes.start("shardgate", self.proxy_command)

        async def is_ready():
            return await self.proxy_status("/readyz") == 200

        await until(is_ready, self.proxy, "shardgate")
        return port


async def start_bot(stage, library, name, rest, cable):
    """A bot that finds Discord's REST at `rest` and its gateway at the end of `cable`."""
    variables = {
        "API": rest.url,
        "GATEWAY": cable.url,
        "TOKEN": TOKEN,
        "SHARDS": str(SHARDS),
        "INTENTS": str(INTENTS),
        "PREFIX": "check ",
    }
    return Bot(await stage.processes.start(name, library.bot, os.environ | variables, talks=True))


async def until(condition, process, name):
    """Asks `condition` ten times a second, up to 30 s. Errs when `process` ends before."""
    for _ in range(READY_S * 10):
        answer = condition()
        if await answer if asyncio.iscoroutine(answer) else answer:
            return
        if process.returncode is not None:
            raise RuntimeError(f"{name} ended with status {process.returncode}; see its log")
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{name} was not ready after {READY_S} s; see its log")


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]
