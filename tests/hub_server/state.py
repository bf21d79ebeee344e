"""What the local Hub keeps: users, and repositories with commits. All in memory."""

import copy
import hashlib
import itertools
import threading
from dataclasses import dataclass, field
from functools import cached_property

ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
SPACE_README = b"---\ntitle: New\nsdk: gradio\n---\n\nThe Hub's own words for a new Space.\n"
LFS_SUFFIXES = (".safetensors", ".parquet", ".npz", ".png", ".onnx")
PLURAL = {"model": "models", "dataset": "datasets", "space": "spaces"}


@dataclass
class Error(Exception):
    """An answer other than 200."""

    status: int
    message: str
    code: str | None = None
    extra: dict = field(default_factory=dict)


@dataclass(frozen=True)
class File:
    """Content of a file, and whether it is stored by LFS."""

    content: bytes
    lfs: bool = False

    @cached_property
    def git(self):
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    def __deepcopy__(self, memo):
        return self

    @cached_property
    def sha256(self):
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Commit:
    """One commit: the whole tree, and the commit before."""

    oid: str
    parent: str | None
    title: str
    author: str
    files: dict


@dataclass
class User:
    name: str
    role: str
    organizations: dict


class Repository:
    """Commits, branches and tags; it begins with a commit of the Hub's: .gitattributes, and a Space's README.md."""

    numbers = itertools.count(1)

    def __init__(self, kind, name, private, sdk=None):
        self.kind, self.name, self.private, self.sdk = kind, name, private, sdk
        self.commits, self.branches, self.tags = {}, {}, {}
        first = {".gitattributes": File(ATTRIBUTES)} | ({"README.md": File(SPACE_README)} if kind == "space" else {})
        self.commit("main", first, "initial commit", "system")

    def commit(self, branch, files, title, author):
        oid = hashlib.sha1(f"{self.kind} {self.name} {next(self.numbers)}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, self.branches.get(branch), title, author, dict(files))
        self.branches[branch] = oid
        return oid

    def find(self, revision):
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise Error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, revision):
        commit = self.find(revision)
        while commit is not None:
            yield commit
            commit = self.commits.get(commit.parent)


class State:
    """Everything, behind one lock."""

    def __init__(self):
        self.lock = threading.RLock()
        self.users, self.repositories, self.objects = {}, {}, {}

    def who(self, token):
        if token is None:
            return None
        if token not in self.users:
            raise Error(401, "Invalid credentials in Authorization header")
        return self.users[token]

    def repository(self, kind, name, user, write=False):
        """A repository that the user may see, and write to where that is wanted."""
        found = self.repositories.get((kind, name))
        owner = name.split("/")[0]
        member = user is not None and (owner == user.name or owner in user.organizations)
        if found is None or (found.private and not member):
            if user is None:
                raise Error(401, "Repository not found", "RepoNotFound")
            raise Error(404, "Repository not found", "RepoNotFound")
        if write:
            self.check_write(user, owner)
        return found

    def check_write(self, user, owner):
        if user is None:
            raise Error(401, "Invalid username or password.")
        if user.role != "write" or (owner != user.name and user.organizations.get(owner) != "write"):
            raise Error(403, f"You don't have the rights to write under the namespace {owner}")

    def copy(self):
        """The same state once more: what happens to one of them does not touch the other."""
        made = State()
        with self.lock:
            vars(made).update({name: copy.deepcopy(part) for name, part in vars(self).items() if name != "lock"})
        return made

    def snapshot(self):
        """The state as plain values, without times and commit ids, to compare two of them."""

        def tree(repository, oid):
            return {path: file.sha256 for path, file in repository.commits[oid].files.items()}

        with self.lock:
            return {
                "repositories": {
                    f"{kind} {name}": {
                        "private": each.private,
                        "branches": {branch: tree(each, oid) for branch, oid in each.branches.items()},
                        "tags": {tag: tree(each, oid) for tag, oid in each.tags.items()},
                    }
                    for (kind, name), each in self.repositories.items()
                }
            }
