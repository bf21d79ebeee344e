"""A small server that speaks enough of the Hub's HTTP interface for the official clients as they are; for tests alone.

It answers what huggingface_hub 2.4 sends and needs, and proves nothing of the real Hub's rules, rate limits or storage.
`hub.url` goes into HF_ENDPOINT with HF_HUB_DISABLE_XET=1; `hub.fault` disturbs requests.
"""

import json
import socket
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qs

import uvicorn
from fastapi import Request, Response
from fastapi.responses import JSONResponse

from .faults import Fault, disturb
from .routes import find_route
from .state import Error, File, State, User


@dataclass
class Record:
    """One request as the log keeps it."""

    method: str
    path: str
    sent: int = 0


@dataclass
class Call:
    """What a route is given."""

    user: User | None
    body: bytes
    query: dict
    headers: dict
    keep: int | None = None

    @property
    def json(self):
        return json.loads(self.body) if self.body else None

    def respond(self, content, headers):
        wanted = self.headers.get("range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(0, len(content) - int(last))
            end = min(int(last) + 1, len(content)) if first and last else len(content)
            headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
            return Response(content[start:end], 206, headers, "application/octet-stream")
        return Response(content, 200, headers, "application/octet-stream")


@dataclass
class LocalHub:
    """`with LocalHub() as hub:` serves until the block ends."""

    state: State = field(default_factory=State)
    requests: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    url: str = ""

    def __enter__(self):
        # Named as TCP, or asyncio does not turn off the wait of 40 ms between the parts of an answer.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        options = {"interface": "asgi3", "http": "h11", "lifespan": "off", "log_level": "critical"}
        self._server = uvicorn.Server(uvicorn.Config(self._serve, **options, access_log=False, proxy_headers=False))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(10)

    async def _app(self, scope, receive, send):
        request = Request(scope, receive)
        await self._answer(request, await request.body())(scope, receive, send)

    async def _serve(self, scope, receive, send):
        if scope["type"] != "http":
            return
        raw = scope["raw_path"].decode().partition("?")[0]
        record = Record(scope["method"], raw)
        self.requests.append(record)
        scope["record"] = record

        fault = next((each for each in self.faults if each.strikes(scope["method"], raw)), None)
        if fault is None:
            await self._app(scope, receive, send)
        else:
            await disturb(fault, self._app, scope, receive, send, self)

    def _answer(self, request, body):
        record = request.scope["record"]
        token = request.headers.get("authorization", "").removeprefix("Bearer ").strip() or None
        try:
            with self.state.lock:
                function, groups = find_route(request.method, record.path)
                keep, query = request.scope.get("keep"), parse_qs(request.url.query)
                call = Call(self.state.who(token), body, query, request.headers, keep)
                found = function(self, call, *groups)
            response = found if isinstance(found, Response) else JSONResponse(found)
        except Error as error:
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            response = JSONResponse({"error": error.message, **error.extra}, error.status, headers)
        record.sent = len(response.body)
        return response

    # Control interface.

    def add_user(self, name, token, role="write", organizations=None):
        self.state.users[token] = User(name, role, dict(organizations or {}))

    def fault(self, kind, *, method=None, path="", after=0, times=1, **options):
        self.faults.append(Fault(kind, method, path, after, times, options))
        return self.faults[-1]

    def repository(self, kind, name):
        return self.state.repositories[kind, name]

    def files(self, kind, name, revision="main"):
        return {path: file.content for path, file in self.repository(kind, name).find(revision).files.items()}

    def commits(self, kind, name, revision="main"):
        return [each.title for each in self.repository(kind, name).history(revision)]

    def foreign_commit(self, kind, name, files):
        with self.state.lock:
            found = self.repository(kind, name)
            there = {**found.find("main").files, **{path: File(content) for path, content in files.items()}}
            return found.commit("main", there, "by someone else", "someone")
