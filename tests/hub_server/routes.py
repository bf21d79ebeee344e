"""The answers of the local Hub, one function for each kind of request."""

import base64
import hashlib
import json
import re
from urllib.parse import unquote

import yaml

from .state import LFS_SUFFIXES, PLURAL, Error, File, Repository

KINDS = {plural: kind for kind, plural in PLURAL.items()}
ID = r"([^/]+/[^/]+)"
API = rf"/api/(models|datasets|spaces)/{ID}"
WEB = rf"/(?:(datasets|spaces)/)?{ID}"
ROUTES = []


def route(method, pattern):
    """Register `function(hub, call, *groups)` for a path; `call` has user, body, query and headers."""

    def add(function):
        ROUTES.append((method, re.compile(pattern + r"/?"), function))
        return function

    return add


def kind_of(plural):
    return KINDS.get(plural or "models")


@route("POST", "/api/repos/create")
def create(hub, call):
    body = call.json
    kind = body.get("type") or "model"
    owner = body.get("organization") or (call.user and call.user.name)
    hub.state.check_write(call.user, owner)
    name = f"{owner}/{body['name']}"
    url = f"{hub.url}/{'' if kind == 'model' else PLURAL[kind] + '/'}{name}"
    if (kind, name) in hub.state.repositories:
        raise Error(409, "You already created this repo", extra={"url": url})
    private = body.get("visibility") == "private"
    hub.state.repositories[kind, name] = Repository(kind, name, private, body.get("sdk"))
    return {"url": url, "name": name, "id": name}


@route("PUT", rf"{API}/settings")
def settings(hub, call, plural, name):
    found = hub.state.repository(kind_of(plural), name, call.user, write=True)
    found.private = call.json["visibility"] == "private"
    return {}


@route("POST", "/api/validate-yaml")
def validate(hub, call):
    return {"errors": [], "warnings": []}


@route("POST", rf"{API}/preupload/([^/]+)")
def preupload(hub, call, plural, name, revision):
    found = hub.state.repository(kind_of(plural), name, call.user, write=True)
    there = found.find(revision).files
    answer = []
    for each in call.json["files"]:
        path = each["path"]
        lfs = each["size"] > 0 and path.endswith(LFS_SUFFIXES)
        entry = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
        if path in there:
            entry["oid"] = there[path].sha256 if there[path].lfs else there[path].git
        answer.append(entry)
    return {"files": answer}


@route("POST", rf"{WEB}\.git/info/lfs/objects/batch")
def batch(hub, call, plural, name):
    hub.state.repository(kind_of(plural), name, call.user, write=True)
    objects = []
    for each in call.json["objects"]:
        entry = {"oid": each["oid"], "size": each["size"]}
        if each["oid"] not in hub.state.objects:
            entry["actions"] = {
                "upload": {"href": f"{hub.url}/lfs/{each['oid']}"},
                "verify": {"href": f"{hub.url}/lfs/verify/{each['oid']}"},
            }
        objects.append(entry)
    return {"transfer": "basic", "objects": objects}


@route("PUT", r"/lfs/([0-9a-f]{64})")
def put_object(hub, call, oid):
    hub.state.objects[oid] = call.body if call.keep is None else call.body[: call.keep]
    return {}


@route("POST", r"/lfs/verify/([0-9a-f]{64})")
def verify_object(hub, call, oid):
    content = hub.state.objects.get(oid, b"")
    if hashlib.sha256(content).hexdigest() != oid:
        hub.state.objects.pop(oid, None)
        raise Error(422, "The uploaded object is not what was announced")
    return {}


@route("POST", rf"{API}/commit/([^/]+)")
def commit(hub, call, plural, name, revision):
    found = hub.state.repository(kind_of(plural), name, call.user, write=True)
    if revision not in found.branches:
        raise Error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    files, header = dict(found.find(revision).files), {}
    for line in call.body.decode().splitlines():
        entry = json.loads(line)
        value = entry["value"]
        if entry["key"] == "header":
            header = value
            if value.get("parentCommit") not in (None, found.branches[revision]):
                raise Error(412, "A commit has happened since. Please refresh and try again.")
        elif entry["key"] == "file":
            files[value["path"]] = File(base64.b64decode(value["content"]))
        elif entry["key"] == "lfsFile":
            content = hub.state.objects.get(value["oid"])
            if content is None or hashlib.sha256(content).hexdigest() != value["oid"]:
                raise Error(400, f"LFS object {value['oid']} was not uploaded")
            files[value["path"]] = File(content, lfs=True)
        elif entry["key"] == "deletedFile":
            files.pop(value["path"])
    oid = found.commit(revision, files, header["summary"], call.user.name)
    prefix = "" if plural == "models" else f"{plural}/"
    return {"success": True, "commitOid": oid, "commitUrl": f"{hub.url}/{prefix}{name}/commit/{oid}"}


@route("POST", rf"{API}/branch/([^/]+)")
def make_branch(hub, call, plural, name, branch):
    found = hub.state.repository(kind_of(plural), name, call.user, write=True)
    if branch in found.branches:
        raise Error(409, f"Reference already exists: {branch}")
    found.branches[branch] = found.find((call.json or {}).get("startingPoint") or "main").oid
    return {}


@route("POST", rf"{API}/tag/([^/]+)")
def make_tag(hub, call, plural, name, revision):
    found = hub.state.repository(kind_of(plural), name, call.user, write=True)
    if call.json["tag"] in found.tags:
        raise Error(409, f"Tag already exists: {call.json['tag']}")
    found.tags[call.json["tag"]] = found.find(revision).oid
    return {}


@route("GET", rf"{API}/refs")
def refs(hub, call, plural, name):
    found = hub.state.repository(kind_of(plural), name, call.user)

    def listed(names, folder):
        return [{"name": key, "ref": f"refs/{folder}/{key}", "targetCommit": oid} for key, oid in names.items()]

    return {"branches": listed(found.branches, "heads"), "tags": listed(found.tags, "tags"), "converts": []}


@route("GET", rf"{API}/commits/([^/]+)")
def commits(hub, call, plural, name, revision):
    found = hub.state.repository(kind_of(plural), name, call.user)
    fixed = {"message": "", "date": "2026-01-01T00:00:00.000Z"}
    return [
        {"id": each.oid, "title": each.title, "authors": [{"user": each.author}], **fixed}
        for each in found.history(revision)
    ]


@route("GET", rf"{API}/tree/([^/]+)(?:/(.*))?")
def tree(hub, call, plural, name, revision, folder):
    files = hub.state.repository(kind_of(plural), name, call.user).find(revision).files
    prefix = f"{folder}/" if folder else ""
    recursive = call.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    answer, folders = [], set()
    for path, file in sorted(files.items()):
        if path.startswith(prefix):
            parts = path.removeprefix(prefix).split("/")
            folders |= {prefix + "/".join(parts[:n]) for n in range(1, len(parts)) if recursive or n == 1}
            if recursive or len(parts) == 1:
                size = len(file.content)
                lfs = {"lfs": {"oid": file.sha256, "size": size, "pointerSize": 130}} if file.lfs else {}
                answer.append({"type": "file", "path": path, "oid": file.git, "size": size, **lfs})
    if folder and not answer and not folders:
        raise Error(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    return [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)] + answer


@route("GET", rf"{API}(?:/revision/([^/]+))?")
def info(hub, call, plural, name, revision):
    found = hub.state.repository(kind_of(plural), name, call.user)
    at = found.find(revision or "main")
    card = re.match(rb"---\s*\n(.*?)\n---", at.files.get("README.md", File(b"")).content, re.DOTALL)
    data = yaml.safe_load(card.group(1)) if card else {}
    siblings = [{"rfilename": path} for path in sorted(at.files)]
    return {
        "id": found.name, "sha": at.oid, "private": found.private, "siblings": siblings, "tags": [], "cardData": data,
        "pipeline_tag": data.get("pipeline_tag"), "library_name": data.get("library_name"), "sdk": found.sdk,
    }  # fmt: skip


@route("HEAD|GET", rf"{WEB}/resolve/([^/]+)/(.+)")
def resolve(hub, call, plural, name, revision, path):
    found = hub.state.repository(kind_of(plural), name, call.user)
    at = found.find(revision)
    headers = {"X-Repo-Commit": at.oid}
    if path not in at.files:
        raise Error(404, "Entry not found", "EntryNotFound")
    file = at.files[path]
    headers |= {"ETag": f'"{file.sha256 if file.lfs else file.git}"', "Accept-Ranges": "bytes"}
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
    return call.respond(file.content, headers)


def find_route(method, raw_path):
    """(function, groups) for a request; a branch with a slash comes percent-encoded, so the raw path is matched."""
    for methods, pattern, function in ROUTES:
        matched = pattern.fullmatch(raw_path)
        if matched and method in methods.split("|"):
            return function, [None if group is None else unquote(group) for group in matched.groups()]
    raise Error(404, "Not found")
