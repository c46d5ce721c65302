"""As much HTTP as the test needs: one request per connection, as a client and as the REST stub of Discord."""

import asyncio
import json
from urllib.parse import urlsplit

TIMEOUT_S = 10


async def request(method, url, body=b"", token=None):
    """Answers (status, body). Errs with OSError when nobody listens, with TimeoutError after 10 s."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    head = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close", f"Content-Length: {len(body)}"]
    if token:
        head.append(f"Authorization: Bot {token}")
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
            status, headers = await read_head(reader)
            length = headers.get("content-length")
            answer = await (reader.read() if length is None else reader.readexactly(int(length)))
            return int(status.split()[1]), answer
        finally:
            writer.close()


async def read_head(reader):
    """Answers the first line and the headers, their names in lower case."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    return first, {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}


class RestStub:
    """Discord's REST as far as a library needs it to log in; `/gateway/bot` is relayed to the gateway under test."""

    def __init__(self, token):
        self.url = None
        # Set before a library starts: where `/gateway/bot` is asked, and what its `url` is replaced by, if at all.
        self.gateway_rest = None
        self.gateway_url = None
        self._token = token
        self._user = None

    async def open(self, user):
        """Listens on a free port of loopback. `user` is what READY says of the bot."""
        self._user = {"id": user["id"], "username": user["username"], "discriminator": user["discriminator"],
                      "avatar": user["avatar"], "bot": True, "public_flags": 0}
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader, writer):
        try:
            first, headers = await read_head(reader)
            status, body = await self._answer(first.split()[1], headers.get("authorization"))
            head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nConnection: close\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # The library has gone: there is nobody to answer.
        finally:
            writer.close()

    async def _answer(self, target, authorization):
        if authorization != f"Bot {self._token}":
            return 401, b'{"message":"401: Unauthorized","code":0}'
        match target.removeprefix("/api/v10"):
            case "/users/@me":
                return 200, json.dumps(self._user).encode()
            case "/oauth2/applications/@me" | "/applications/@me":
                application = {"id": self._user["id"], "name": "bot", "icon": None, "description": "", "flags": 0,
                               "bot_public": False, "bot_require_code_grant": False, "verify_key": "",
                               "owner": self._user, "team": None, "rpc_origins": []}
                return 200, json.dumps(application).encode()
            case "/gateway" | "/gateway/bot" as path:
                status, body = await request("GET", self.gateway_rest + path, token=self._token)
                if status == 200 and self.gateway_url:
                    body = json.dumps(json.loads(body) | {"url": self.gateway_url}).encode()
                return status, body
        return 404, b'{"message":"404: Not Found","code":0}'
