"""A small Hub on this machine: data sets of files, served with byte ranges, that can fail as told, and keeps a log.

Of the Hub's interface it has what reading needs (`huggingface_hub` 2.4): info and revisions of a data set, its tree,
`paths-info`, and `resolve` by GET and HEAD. Point a client at `hub.url` by its `endpoint` parameter, or by the variable
HF_ENDPOINT, which must be set before the client's process imports anything.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REFUSE, CUT, DROP = "refuse", "cut", "drop"
"""A fault: answer 500; send half of the body and break off; break off before any answer."""


@dataclass
class Request:
    """One request as the log keeps it; `sent` counts the bytes of the body that went out."""

    method: str
    path: str
    range: tuple[int, int] | None
    status: int = 0
    sent: int = 0


@dataclass
class Repository:
    """A data set: its files and the commit they are at."""

    files: dict[str, bytes]
    commit: str = ""

    def __post_init__(self):
        digest = hashlib.sha1()
        for name, content in sorted(self.files.items()):
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        self.commit = self.commit or digest.hexdigest()

    def entry(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        return {"type": "file", "path": name, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}

    def tree(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        entries = {}
        for name in sorted(self.files):
            if not name.startswith(prefix):
                continue
            parts = name.removeprefix(prefix).split("/")
            for depth in range(1, len(parts)):
                path = prefix + "/".join(parts[:depth])
                if recursive or depth == 1:
                    entries[path] = {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()}
            if recursive or len(parts) == 1:
                entries[name] = self.entry(name)
        return list(entries.values())


class LocalHub:
    """Serve data sets from memory while the `with` block lasts.

    Attributes:
        url: address of the server, for `endpoint` or HF_ENDPOINT.
        requests: log of what was asked, in order.
        fault: function of a request that names a fault (`REFUSE`, `CUT`, ...) or None; set it to make trouble.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.fault: Callable[[Request], str | None] = lambda request: None
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "LocalHub":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None):
        self._server.shutdown()
        self._server.server_close()

    def add(self, name: str, files: dict[str, bytes], commit: str = "") -> str:
        """Add a data set, or a new commit of one; returns the commit (by default a hash of the files)."""
        self.repositories[name] = Repository(files, commit)
        return self.repositories[name].commit

    def log(self, request: Request) -> str | None:
        """Keep a request and say which fault it is to have."""
        with self._lock:
            self.requests.append(request)
            return self.fault(request)

    def reads(self, ending: str = ".parquet") -> list[Request]:
        """The GET requests of files with this ending."""
        return [request for request in self.requests if request.method == "GET" and request.path.endswith(ending)]


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.answer()

    def do_HEAD(self):
        self.answer()

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

    def answer(self, form: str = ""):
        """Log the request, find what it asks for and send it, or the fault that it is to have."""
        url = urlsplit(self.path)
        path = unquote(url.path)
        request = Request(self.command, path, self.byte_range())
        fault = self.hub.log(request)
        if fault == DROP:
            self.close_connection = True
            return
        if fault == REFUSE:
            self.send(request, 500, b"out of order")
            return
        status, body, headers = self.find(path.strip("/").split("/"), parse_qs(url.query), form)
        if request.range is not None and status == 200:
            start, end = request.range
            headers["Content-Range"] = f"bytes {start}-{min(end, len(body)) - 1}/{len(body)}"
            status, body = 206, body[start:end]
        self.send(request, status, body, headers, cut=fault == CUT)

    def byte_range(self) -> tuple[int, int] | None:
        """Start and end (exclusive) of the range asked for."""
        kind, _, span = self.headers.get("Range", "").partition("=")
        if kind != "bytes":
            return None
        start, _, last = span.partition("-")
        return int(start), int(last) + 1 if last else 2**62

    def send(
        self, request: Request, status: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False
    ):
        request.status = status
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            part = body[: len(body) // 2] if cut else body
            self.wfile.write(part)
            request.sent = len(part)
        if cut:
            self.close_connection = True

    def find(self, parts: list[str], query: dict[str, list[str]], form: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of what a path names."""
        is_api = parts[:2] == ["api", "datasets"]
        if not is_api and parts[:1] != ["datasets"]:
            return self.missing("EntryNotFound")
        parts = parts[2:] if is_api else parts[1:]
        name, action = "/".join(parts[:2]), (parts[2] if len(parts) > 2 else "revision")
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self.missing("RepoNotFound")
        revision, rest = (parts[3] if len(parts) > 3 else "main"), "/".join(parts[4:])
        if revision not in ("main", repository.commit):
            return self.missing("RevisionNotFound")
        if is_api and action == "revision":
            siblings = [{"rfilename": file} for file in sorted(repository.files)]
            return self.json({"id": name, "sha": repository.commit, "private": False, "siblings": siblings, "tags": []})
        if is_api and action == "tree":
            entries = repository.tree(rest, query.get("recursive", ["False"])[0].lower() in ("true", "1"))
            return self.json(entries) if entries else self.missing("EntryNotFound")
        if is_api and action == "paths-info":
            wanted = parse_qs(form).get("paths", [])
            return self.json([repository.entry(path) for path in wanted if path in repository.files])
        if not is_api and action == "resolve" and rest in repository.files:
            tag = repository.entry(rest)["oid"]
            headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
            return 200, repository.files[rest], headers
        return self.missing("EntryNotFound")

    def json(self, value: Any) -> tuple[int, bytes, dict[str, str]]:
        return 200, json.dumps(value).encode(), {"Content-Type": "application/json"}

    def missing(self, code: str) -> tuple[int, bytes, dict[str, str]]:
        return 404, b"{}", {"X-Error-Code": code, "Content-Type": "application/json"}
