"""The Space of a release: exactly `spaces/tlm-demo/`, with what it shows and a card that names the models."""

import shutil
from pathlib import Path

from huggingface_hub import RepoCard

from .. import runtime
from ..cards import card_template, package_data
from ..errors import UserError
from ..runs.atomic_files import read_json, write_json
from .demo_data import DEMO_FILE
from .release_file import Entry, Release

SPACE, DEMO = "tlm-demo", "demo"
USAGE = "## How to run it"
"""Heading in the Space's README.md from which on it holds for every demonstration."""


def stage_space(entry: Entry, release: Release, folder: Path, *, smoke: bool) -> None:
    """Copy the Space, the runtime of frozen committees and the demonstration, whose models become the release's."""
    ignored = shutil.ignore_patterns("__pycache__", ".gradio", DEMO)
    shutil.copytree(package_data("spaces") / SPACE, folder, ignore=ignored, dirs_exist_ok=True)
    shutil.copyfile(runtime.__file__, folder / "tlm_runtime.py")
    target = folder / DEMO
    target.mkdir()
    try:
        demo = read_json(entry.source / DEMO_FILE)
        for name in filter(None, [demo["corpus"] and demo["corpus"]["counts"], demo["study"]]):
            shutil.copyfile(entry.source / Path(name).name, target / Path(name).name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{entry.source} is not a whole demonstration ({error}): make it again.") from error

    def repository(key: str, names: dict[str, str]) -> str:
        if key not in names:
            raise UserError(f"The demonstration {entry.source} shows {key!r}: name its repositories in the release.")
        return release.repo_id(names[key])

    for task in demo["tasks"]:
        task["committee"] = repository(task["name"], entry.committees)
        task["deep"] = task["deep"] and repository(task["name"], entry.deep)
    demo["encoders"] = {name: release.repo_id(model) for name, model in entry.encoders.items()}
    write_json(target / DEMO_FILE, {key: value for key, value in demo.items() if key != "made_by"})
    card = RepoCard.load(folder / "README.md", repo_type="space")
    models = [release.repo_id(name) for name in dict.fromkeys(name for _, name in entry.links)]
    card.data["models"], card.data["license"] = models, release.licence
    text = card_template("space").render(
        tasks=demo["tasks"],
        encoders=list(entry.encoders),
        corpus=demo["corpus"] and demo["corpus"]["name"],
        study=bool(demo["study"]),
        smoke=smoke,
        usage=card.text[card.text.index(USAGE) :].strip(),
        models=models,
        version=release.version,
    )
    (folder / "README.md").write_text(f"---\n{card.data.to_yaml()}\n---\n\n{text.strip()}\n", encoding="utf-8")
