"""Disturbances of the local Hub, at the outermost layer, where connections can really be cut.

`stale_parent`: someone else's commit lands just before the request; `half_lfs` keeps `bytes` of an object, answers 200.
"""

import asyncio
import json
import re
from dataclasses import dataclass, field


@dataclass
class Fault:
    """What disturbs which requests: the (after + 1)-th that fits and the following `times` - 1."""

    kind: str
    method: str | None = None
    path: str = ""
    after: int = 0
    times: int = 1
    options: dict = field(default_factory=dict)
    seen: int = 0
    done: int = 0

    def strikes(self, method, path):
        if (self.method is not None and method != self.method) or not re.search(self.path, path):
            return False
        self.seen += 1
        if self.seen <= self.after or self.done >= self.times:
            return False
        self.done += 1
        return True


async def disturb(fault, app, scope, receive, send, hub):
    """Serve one request under a fault."""
    transport = send.__self__.transport  # uvicorn's; `send` is its bound method
    options = fault.options
    if fault.kind == "refuse":
        transport.abort()
    elif fault.kind == "cut_upload":
        left = options.get("bytes", 0)
        while left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
            if not message.get("more_body"):
                break
        transport.abort()
    elif fault.kind == "lost_reply":

        async def swallow(message):
            pass

        await app(scope, receive, swallow)
        transport.abort()
    elif fault.kind == "cut_download":
        left = options.get("bytes", 0)

        async def cut(message):
            nonlocal left
            if message["type"] == "http.response.body":
                body = message.get("body", b"")
                if len(body) > left:
                    await send({"type": "http.response.body", "body": body[:left], "more_body": True})
                    await asyncio.sleep(0.05)
                    transport.abort()
                    return
                left -= len(body)
            await send(message)

        await app(scope, receive, cut)
    elif fault.kind == "status":
        code = options["code"]
        body = json.dumps(options.get("body", {"error": f"fault {code}"})).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **options.get("headers", {})}
        while (await receive()).get("more_body"):
            pass
        pairs = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
        await send({"type": "http.response.start", "status": code, "headers": pairs})
        await send({"type": "http.response.body", "body": body})
    else:
        if fault.kind == "stale_parent":
            found = re.search(r"/api/(model|dataset|space)s/([^/]+/[^/]+)/", scope["path"])
            hub.foreign_commit(found.group(1), found.group(2), {"theirs.txt": b"by someone else\n"})
        elif fault.kind == "half_lfs":
            scope["keep"] = options.get("bytes", 10)
        await app(scope, receive, send)
