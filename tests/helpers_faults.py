"""Pushes that are disturbed at one step, and what readers see meanwhile; shared by tests and the stress program."""

import hashlib
import threading
import time
from dataclasses import dataclass, field

from helpers_release import TOKEN, client

from tlm_hf.errors import UserError
from tlm_hf.hub.push import push

REPOSITORY = r"tiny-lab/tlm-bert2-words"
"""In the middle of a push."""
STEPS = {
    "looking": ("GET", rf"/api/models/{REPOSITORY}/revision/main$"),
    "making the repository": ("POST", r"/api/repos/create$"),
    "making a branch": ("POST", r"/branch/"),
    "setting a variable": ("POST", r"/variables$"),
    "listing files": ("GET", rf"{REPOSITORY}/tree/"),
    "checking the card": ("POST", r"/api/validate-yaml$"),
    "announcing files": ("POST", rf"{REPOSITORY}/preupload/"),
    "announcing large files": ("POST", rf"{REPOSITORY}\.git/info/lfs/objects/batch$"),
    "sending a large file": ("PUT", r"/lfs/[0-9a-f]{64}$"),
    "checking a large file": ("POST", r"/lfs/verify/"),
    "committing": ("POST", rf"{REPOSITORY}/commit/"),
    "tagging": ("POST", rf"{REPOSITORY}/tag/"),
    "listing tags": ("GET", rf"{REPOSITORY}/refs$"),
    "making the collection": ("POST", r"/api/collections$"),
    "adding to the collection": ("POST", r"/api/collections/.*/items$"),
}
FAULTS = {
    "no connection": ("refuse", {}),
    "cut in the request": ("cut_upload", {"bytes": 20}),
    "cut in the answer": ("cut_download", {"bytes": 5}),
    "applied, answer lost": ("lost_reply", {}),
    "500": ("status", {"code": 500}),
    "502": ("status", {"code": 502}),
    "503": ("status", {"code": 503}),
    "504": ("status", {"code": 504}),
    "429 with Retry-After": ("status", {"code": 429, "headers": {"Retry-After": "7"}}),
    "401": ("status", {"code": 401}),
    "403": ("status", {"code": 403}),
    "404": ("status", {"code": 404}),
    "412": ("status", {"code": 412}),
    "storage is full (403)": ("quota", {}),
    "storage is full (507)": ("status", {"code": 507}),
    "slow": ("slow", {"seconds": 0.2}),
    "never again": ("status", {"code": 503, "times": 1000}),
}
ONLY_AT = {
    "someone else commits first": ("stale_parent", {}, "committing"),
    "half of a large file is kept": ("half_lfs", {"bytes": 10}, "sending a large file"),
}


@dataclass
class Watcher:
    """A reader who looks all the time: every branch of every repository must be at one of the known trees."""

    hub: object
    known: set
    seen: int = 0
    strange: list = field(default_factory=list)

    def look(self):
        for name, each in self.hub.snapshot()["repositories"].items():
            for branch, tree in each["branches"].items():
                self.seen += 1
                if frozenset(tree.items()) not in self.known:
                    self.strange.append((name, branch, sorted(tree)))

    def __enter__(self):
        self._stop = threading.Event()

        def watch():
            while not self._stop.is_set():
                self.look()
                time.sleep(0.02)

        self._thread = threading.Thread(target=watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.look()


def trees(snapshot):
    """All trees of a snapshot."""
    return {frozenset(tree.items()) for each in snapshot["repositories"].values() for tree in each["branches"].values()}


def first_trees(hub):
    """The trees with which the Hub itself begins the repositories that are there."""
    return {
        frozenset((path, file.sha256) for path, file in commit.files.items())
        for each in hub.state.repositories.values()
        for commit in each.commits.values()
        if commit.parent is None
    }


def with_foreign(known):
    """The trees, and each of them after someone else's commit."""
    theirs = ("theirs.txt", hashlib.sha256(b"by someone else\n").hexdigest())
    return known | {frozenset({*tree, theirs}) for tree in known}


def disturbed_push(hub, start, release, wanted, kind, method, path, options, known):
    """Push under one fault, watched, then push again without it.

    Returns:
        `struck` (whether the fault met a request), `first` and `second` (done, or the sentence), `equal` (the end is
        that of an undisturbed push), `watched` looks of the reader and the `strange` ones, `overwrite` whether the
        second push needed it, `token_shown` whether a sentence shows the token.
    """
    hub.state = start.copy()
    hub.requests.clear()
    hub.clear_faults()
    options = dict(options)
    times = options.pop("times", 1)
    fault = hub.fault(kind, method=method, path=path, times=times, **options)
    found = {"overwrite": False}
    with Watcher(hub, known) as watcher:
        found["first"] = _try(hub, release)
        hub.clear_faults()
        found["second"] = _try(hub, release)
        if "--overwrite" in found["second"]:
            found["overwrite"] = True
            found["second"] = _try(hub, release, overwrite=True)
    found |= {
        "struck": fault.done > 0,
        "equal": hub.snapshot() == wanted,
        "watched": watcher.seen,
        "strange": watcher.strange,
        "token_shown": any(TOKEN in found[place] for place in ("first", "second")),
    }
    return found


def _try(hub, release, **options):
    try:
        push(str(release), hub=client(hub), **options)
    except UserError as error:
        return str(error)
    return "done"
