"""The Space of a release: exactly `spaces/tlm-demo/`, with what it shows and a card that names the models."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import RepoCard

from ..cards import card_template, package_data
from ..errors import UserError
from ..runs.atomic_files import file_hash, write_json
from .demo_data import DEMO_FILE
from .model_folder import member_configs
from .release_entries import Release, SpaceEntry

SPACE = "tlm-demo"
DEMO = "demo"
USAGE = "## How to run it"
"""Where the Space's own README goes on with what holds for every demonstration."""
LEFT_OUT = ("__pycache__", ".gradio", DEMO)


def space_files() -> dict[str, Path]:
    """The files of `spaces/tlm-demo/`, by their path in it."""
    root = package_data("spaces") / SPACE
    return {
        path.relative_to(root).as_posix(): path
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(part in LEFT_OUT for part in path.relative_to(root).parts)
    }


def space_code() -> dict[str, str]:
    """SHA-256 of the Python files of the Space."""
    return {name: file_hash(path) for name, path in space_files().items() if name.endswith(".py")}


def space_variables(entry: SpaceEntry, release: Release) -> dict[str, str]:
    """Environment variables of the Space on the Hub: which repositories it loads (see its README)."""

    def listed(names: dict[str, str]) -> str:
        return ",".join(f"{key}={release.repo_id(name)}" for key, name in names.items())

    found = {
        "TLM_DEMO_COMMITTEES": listed(entry.committees),
        "TLM_DEMO_DEEP": listed(entry.deep),
        "TLM_DEMO_ENCODERS": listed(entry.encoders),
        # Committees open with their own code alone, which this release hashes.
        "TLM_DEMO_TRUST": "1" if entry.committees else "",
    }
    return {name: value for name, value in found.items() if value}


def stage_space(entry: SpaceEntry, release: Release, folder: Path, root: Path, *, smoke: bool) -> None:
    """Copy the Space and its demonstration, whose models become those of the release.

    Args:
        entry: the repository.
        release: that it belongs to.
        folder: where to.
        root: of the staged release, where the models lie as `owner/name`.
        smoke: whether it shows a model of smoke size.

    Raises:
        UserError: a folder that is no demonstration, or one that shows what the release does not name.
    """
    for name, path in space_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    target = folder / DEMO
    try:
        demo: dict[str, Any] = json.loads((entry.demo / DEMO_FILE).read_text(encoding="utf-8"))
        kept = [demo["corpus"]["counts"], *(task["answers"] for task in demo["tasks"])]
        kept += [demo["study"]] if demo.get("study") else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{entry.demo} is no demonstration ({DEMO_FILE} is missing or damaged): make it again."
        ) from error
    target.mkdir()
    for name in kept:
        if Path(name).name != name or not (entry.demo / name).is_file():
            raise UserError(f"The demonstration {entry.demo} has no {name}: make it again.")
        shutil.copyfile(entry.demo / name, target / name)

    def beside(key: str, names: dict[str, str], what: str) -> str:
        if key not in names:
            raise UserError(
                f"The demonstration {entry.demo} shows the {what} {key!r}: name its repository in the release."
            )
        return Path(os.path.relpath(root / release.repo_id(names[key]), target)).as_posix()

    shown = {**_shown(demo, entry, release, root), "smoke": smoke}
    for task in demo["tasks"]:
        task["committee"] = beside(task["name"], entry.committees, "committee of the task")
        if task["deep"] is not None:
            task["deep"] = beside(task["name"], entry.deep, "deep classifier of the task")
    demo["encoders"] = {name: beside(name, entry.encoders, "encoder") for name in entry.encoders}
    write_json(target / DEMO_FILE, {key: value for key, value in demo.items() if key != "made_by"})
    (folder / "README.md").write_text(_card(entry, release, folder / "README.md", shown), encoding="utf-8")


def _shown(demo: dict[str, Any], entry: SpaceEntry, release: Release, root: Path) -> dict[str, Any]:
    """What the card says of the demonstration: sizes from the models' own configurations."""

    def layers(name: str | None) -> list[int] | None:
        """Different numbers of layers of a model, or of a committee's members; None for a model elsewhere."""
        folder = root / release.repo_id(name or "")
        if name is None or not (folder / "config.json").is_file():
            return None
        return sorted({int(member["num_hidden_layers"]) for member in member_configs(folder)})

    return {
        "tasks": [
            {
                "title": task["title"],
                "members": len(task["members"]),
                "member_layers": layers(entry.committees.get(task["name"])),
                "deep": task["deep"] is not None,
                "deep_layers": layers(entry.deep.get(task["name"])),
            }
            for task in demo["tasks"]
        ],
        "encoders": list(entry.encoders),
        "corpus": demo["corpus"]["name"],
        "study": bool(demo.get("study")),
    }


def _card(entry: SpaceEntry, release: Release, original: Path, shown: dict[str, Any]) -> str:
    """The Space's own front matter with the models that it loads; what this demonstration shows, and how to run it."""
    card = RepoCard.load(original, repo_type="space", ignore_metadata_errors=False)
    models = [release.repo_id(name) for name in dict.fromkeys(entry.linked)]
    card.data["models"] = models
    card.data["license"] = release.licence
    usage = card.text[card.text.index(USAGE) :].strip()
    version = {"version": release.version}
    body = card_template("space").render(**shown, usage=usage, models=models, release=version)
    return f"---\n{card.data.to_yaml()}\n---\n\n{body.strip()}\n"
