"""Turn output folders of `tlm pretrain` into the encoders that the package carries: bfloat16 weights, card, manifest.

python scripts/embed_encoder.py outputs/family/tlm-bert1-0 outputs/family/tlm-bert1-1     # into tlm_hf/pretrained/
"""

import argparse
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tlm_hf.cards import CardFacts
from tlm_hf.data.embedded import FOLDER
from tlm_hf.hub.manifest import MANIFEST_FILE, build_manifest, run_command, training_seconds
from tlm_hf.hub.model_folder import stage_model
from tlm_hf.runs.atomic_files import read_json, write_json
from tlm_hf.runs.output_folder import RESULTS_FILE

TEXT = "paragraphs of English Wikipedia articles (CC BY-SA 4.0)"
WEIGHTS = "model.safetensors"


def shrink(folder: Path) -> None:
    """Store the weights of a model folder in bfloat16, and drop the code, which stock BERT does not need."""
    for code in folder.glob("*.py"):
        code.unlink()
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {key: value for key, value in config.items() if key != "auto_map"})
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def embed(run: Path, root: Path) -> Path:
    """Stage a finished pre-training under its folder's name; its config has float32, so it opens in that."""
    results, folder = read_json(run / RESULTS_FILE), root / run.name
    seconds = training_seconds(results)
    facts = CardFacts(
        TEXT, datasets=["wikimedia/wikipedia"], wall_clock=seconds, example="Paris is the [MASK] of France."
    )
    stage_model(run, folder, "encoder", results, facts)
    shrink(folder)
    shutil.copyfile(run / RESULTS_FILE, folder / RESULTS_FILE)
    log = run.with_name(f"{run.name}.log")  # what the command printed, where that was kept; progress bars left out
    if log.is_file():
        lines = [line for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if "%|" not in line]
        (folder / "train.log").write_text("".join(lines), encoding="utf-8")
    card = folder / "README.md"
    card.write_text(_card_of_embedded(card.read_text(encoding="utf-8"), run.name), encoding="utf-8")
    command = run_command(results)
    manifest = build_manifest(run.name, "encoder", version("tlm-hf"), folder, results=results, command=command)
    write_json(folder / MANIFEST_FILE, manifest)
    return folder


def _card_of_embedded(card: str, name: str) -> str:
    """The card, with snippets that open the folder in the package instead of a repository on the Hub."""
    card = card.replace(f'"{name}"', "folder")
    card = card.replace("from transformers import", "import tlm_hf\nfrom transformers import", 1)
    return card.replace("\nmodel = ", f'\nfolder = str(tlm_hf.pretrained()["{name}"])\nmodel = ', 1)


def main(argv: Sequence[str] | None = None) -> None:
    """Embed each run, and say how large its folder is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--root", type=Path, default=FOLDER)
    arguments = parser.parse_args(argv)
    for run in arguments.runs:
        folder = embed(run.resolve(), arguments.root)
        print(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
