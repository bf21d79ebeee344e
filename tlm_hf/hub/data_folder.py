"""Data set repositories of a release: a folder of `tlm prepare-data` under its name on the Hub."""

import shutil
from pathlib import Path

import yaml
from huggingface_hub import DatasetCard

from ..data.dataset_folder import UNKNOWN
from ..data.near_duplicates import SUBSET_FILE, SUBSET_KIND
from ..errors import UserError
from ..runs.atomic_files import Json, file_hash, read_json, write_json
from .release_file import Entry

CARD = "README.md"
NEEDS_CHECK = {
    "ag-corpus-research-non-commercial": "AG News is given for research and other non-commercial use, and its articles "
    "belong to their publishers",
    "licences-of-the-libraries": "docstrings come under the licences of the libraries that they document",
}
"""Licences, by `license_name`, under which rows are published again only by somebody who has looked."""


def dataset_facts(entry: Entry, licence_checked: bool) -> Json:
    """`subset.json` of the folder; UserError for changed files, or a licence that is unknown or was not checked."""
    folder = entry.source
    facts = read_json(folder / SUBSET_FILE) if (folder / SUBSET_FILE).is_file() else {}
    if facts.get("kind") != SUBSET_KIND:
        raise UserError(f"{folder} is not a data set folder: make one with `tlm prepare-data`.")
    for path, expected in ((folder / name, expected) for name, expected in facts["files"].items()):
        if not path.is_file() or (path.name != CARD and file_hash(path) != expected):  # a card is there to be edited
            raise UserError(f"{path} is missing or was changed since the folder was made: make it again.")
    try:
        card = DatasetCard.load(folder / CARD)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"The front matter of {folder / CARD} is not valid: correct it.") from error
    if card.data.license in (None, "unknown", ["unknown"]) or UNKNOWN in card.text:
        raise UserError(f"{entry.name} has no licence: say it in {folder / CARD}, in `license` and in the text.")
    name = card.data.to_dict().get("license_name")
    if name in NEEDS_CHECK and not licence_checked:
        raise UserError(f"{entry.name}: {NEEDS_CHECK[name]}; if you may publish it, add --i-have-checked-the-licence.")
    return facts


def stage_dataset(entry: Entry, repo_id: str, folder: Path, version: str) -> Json:
    """Copy a data set folder, its card with the repository's name and the version; returns its new `subset.json`."""
    facts = dataset_facts(entry, licence_checked=True)  # asked before
    for name in facts["files"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(entry.source / name, folder / name)
    card = DatasetCard.load(folder / CARD)
    old = facts["name"]
    body = card.text.replace(f'load_dataset("{old}"', f'load_dataset("{repo_id}"')
    body = body.replace(f"# {old}\n", f"# {entry.name}\n", 1)
    if f'load_dataset("{repo_id}"' not in body:
        raise UserError(f"The card {entry.source / CARD} does not say how to load {old}: make the folder again.")
    card.data["pretty_name"] = entry.name
    body = f"{body.rstrip()}\n\nVersion {version} of the release; `manifest.json` has the hash of every file.\n"
    (folder / CARD).write_text(f"---\n{card.data.to_yaml()}\n---\n{body}", encoding="utf-8")
    facts = {**facts, "name": entry.name, "files": {**facts["files"], CARD: file_hash(folder / CARD)}}
    write_json(folder / SUBSET_FILE, facts)
    return facts
