"""What the Hub calls things: licences, tasks, libraries and languages of the committed list `hub_names.yaml`."""

import re
from functools import cache
from pathlib import Path

import yaml

VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")
BRANCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@cache
def known(what: str) -> frozenset[str]:
    """Identifiers of one kind.

    Args:
        what: `licence`, `task`, `library` or `language`.
    """
    lists = yaml.safe_load(Path(__file__).with_name("hub_names.yaml").read_text(encoding="utf-8"))
    return frozenset(lists[what])


def no_branch(name: str) -> str | None:
    """Why a branch cannot have this name; None where it can.

    Of what git takes (`git help check-ref-format`) the letters of folders, since staging makes `owner/name@branch`; not
    what the Hub takes for something else: its main branch, a commit, or the tag of a release.
    """
    if not BRANCH.fullmatch(name):
        return "1 to 100 of A-Z a-z 0-9 . _ -, not beginning with . or -"
    if ".." in name or name.endswith((".", ".lock")):
        return "git takes no .., and no . or .lock at the end"
    if name.lower() in ("main", "head", "refs"):
        return "it means something else to git or the Hub"
    if re.fullmatch("[0-9a-fA-F]{40}", name):
        return "it reads as the hash of a commit"
    if name.startswith("v") and VERSION.fullmatch(name[1:]):
        return "it reads as the tag of a release"
    return None
