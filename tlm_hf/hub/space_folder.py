"""The Space of a release: exactly `spaces/tlm-demo/`, with what it shows and a card that names the models."""

import os
import shutil
from pathlib import Path

from huggingface_hub import RepoCard

from ..cards import card_template, package_data
from ..errors import UserError
from ..runs.atomic_files import read_json, write_json
from .demo_data import DEMO_FILE
from .release_file import Entry, Release

SPACE = "tlm-demo"
DEMO = "demo"
USAGE = "## How to run it"
"""Heading in the Space's own README from which on it holds for every demonstration."""
LEFT_OUT = ("__pycache__", ".gradio", DEMO)


def space_files() -> dict[str, Path]:
    """The files of `spaces/tlm-demo/`, by their path in it."""
    root = package_data("spaces") / SPACE
    files = {path.relative_to(root): path for path in sorted(root.rglob("*")) if path.is_file()}
    return {name.as_posix(): path for name, path in files.items() if not set(name.parts) & set(LEFT_OUT)}


def space_variables(entry: Entry, release: Release) -> dict[str, str]:
    """Environment variables of the Space on the Hub: which repositories it loads (see its README)."""
    named = {"COMMITTEES": entry.committees, "DEEP": entry.deep, "ENCODERS": entry.encoders}
    variables = {
        f"TLM_DEMO_{key}": ",".join(f"{name}={release.repo_id(model)}" for name, model in models.items())
        for key, models in named.items()
        if models
    }
    # Committees open with their own code alone, which this release hashes.
    return variables | ({"TLM_DEMO_TRUST": "1"} if entry.committees else {})


def stage_space(entry: Entry, release: Release, folder: Path, root: Path, *, smoke: bool) -> None:
    """Copy the Space and its demonstration, whose models become those of the release.

    Args:
        entry: the repository.
        release: that it belongs to.
        folder: where to.
        root: of the staged release, which has the models as `owner/name`.
        smoke: whether it shows a model of smoke size.

    Raises:
        UserError: a folder that is not a demonstration, or one that shows what the release does not name.
    """
    for name, path in space_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    target = folder / DEMO
    target.mkdir()
    try:
        demo = read_json(entry.source / DEMO_FILE)
        files = [demo["corpus"]["counts"], demo["study"], *demo["plots"]]
        for name in filter(None, files):
            shutil.copyfile(entry.source / Path(name).name, target / Path(name).name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{entry.source} is not a whole demonstration ({error}): make it again.") from error

    def beside(key: str, names: dict[str, str]) -> str:
        if key not in names:
            raise UserError(f"The demonstration {entry.source} shows {key!r}: name its repositories in the release.")
        return Path(os.path.relpath(root / release.repo_id(names[key]), target)).as_posix()

    for task in demo["tasks"]:
        task["committee"] = beside(task["name"], entry.committees)
        if task["deep"] is not None:
            task["deep"] = beside(task["name"], entry.deep)
    demo["encoders"] = {name: beside(name, entry.encoders) for name in entry.encoders}
    write_json(target / DEMO_FILE, {key: value for key, value in demo.items() if key != "made_by"})
    card = RepoCard.load(folder / "README.md", repo_type="space")
    models = [release.repo_id(name) for name in dict.fromkeys(name for _, name in entry.links)]
    card.data["models"] = models
    card.data["license"] = release.licence
    text = card_template("space").render(
        tasks=demo["tasks"],
        encoders=list(entry.encoders),
        corpus=demo["corpus"]["name"],
        study=bool(demo["study"]),
        smoke=smoke,
        usage=card.text[card.text.index(USAGE) :].strip(),
        models=models,
        version=release.version,
    )
    (folder / "README.md").write_text(f"---\n{card.data.to_yaml()}\n---\n\n{text.strip()}\n", encoding="utf-8")
