"""Make the encoders that the package carries: bfloat16 weights, card, manifest.

python scripts/embed_encoder.py outputs/family/tlm-bert1-0 outputs/family/tlm-bert1-1   # of folders of `tlm pretrain`
python scripts/embed_encoder.py --words outputs/family/tlm-bert1-0                      # tlm-words, with its tokenizer

`tlm-words` is counted, not trained: its [CLS] starts as the mean of a text's word rows, rare words counting more.
"""

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tlm_hf import TLMModel
from tlm_hf.cards import CardFacts, card_template
from tlm_hf.data.cooccurrence import count_rows
from tlm_hf.data.corpora import load_corpus
from tlm_hf.data.embedded import FOLDER
from tlm_hf.data.tokenization import encode_whole, load_tokenizer
from tlm_hf.hub.manifest import training_seconds, write_manifest
from tlm_hf.hub.stage import stage_model
from tlm_hf.recipes import build_config
from tlm_hf.runs.atomic_files import Json, read_json, whole_folder, write_json
from tlm_hf.runs.output_folder import RESULTS_FILE
from tlm_hf.runs.provenance import provenance
from tlm_hf.training.initialization import start_as_mean_of_words

TEXT = "paragraphs of English Wikipedia articles (CC BY-SA 4.0)"
WORDS, LENGTH = "tlm-words", 128
MEASURED = 2000  # texts on which the mean of words is standardised


def finish(folder: Path, name: str, results: Json) -> None:
    """Store the weights in bfloat16, drop the code, which stock BERT does not need, and write results and manifest."""
    for code in folder.glob("*.py"):
        code.unlink()
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {key: value for key, value in config.items() if key != "auto_map"})
    file = folder / "model.safetensors"
    weights = {key: tensor.to(torch.bfloat16) for key, tensor in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    write_json(folder / RESULTS_FILE, results)
    write_manifest(folder, name, "encoder", version("tlm-hf"), results)


def embed(run: Path, root: Path) -> Path:
    """Stage a finished pre-training under its folder's name; its config has float32, so it opens in that."""
    results, folder = read_json(run / RESULTS_FILE), root / run.name
    example, seconds = "Paris is the [MASK] of France.", training_seconds(results)
    facts = CardFacts(TEXT, datasets=["wikimedia/wikipedia"], example=example, wall_clock=seconds)
    stage_model(run, folder, "encoder", results, facts)
    card = (folder / "README.md").read_text(encoding="utf-8").replace(f'"{run.name}"', "folder")
    card = card.replace("from transformers import", "import tlm_hf\nfrom transformers import", 1)
    card = card.replace("\nmodel = ", f'\nfolder = str(tlm_hf.pretrained()["{run.name}"])\nmodel = ', 1)
    (folder / "README.md").write_text(card, encoding="utf-8")
    finish(folder, run.name, results)
    return folder


def count(source: Path, root: Path) -> Path:
    """Count Wikipedia with a folder's tokenizer and write `tlm-words`."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(str(source), LENGTH)
    tokens = [np.array(ids) for ids in encode_whole(tokenizer)(load_corpus("wikipedia")["train"]["text"][:]) if ids]
    config = build_config("bert-1", "laptop", vocab_size=len(tokenizer), max_length=LENGTH)
    rows = count_rows(tokens, config.vocab_size, config.hidden_size, tokenizer.all_special_ids)
    model = TLMModel(config, add_pooling_layer=False)
    frequencies = np.bincount(np.concatenate(tokens), minlength=config.vocab_size)
    start_as_mean_of_words(model, rows, frequencies, tokens[:MEASURED])
    results = {"kind": "words", "texts": len(tokens), **provenance()}
    facts = {"name": WORDS, "text": TEXT, "hidden": config.hidden_size, "results": results}
    with whole_folder(root / WORDS) as folder:
        (folder / "README.md").write_text(card_template("words").render(facts), encoding="utf-8")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        finish(folder, WORDS, results)
    return root / WORDS


def main(argv: Sequence[str] | None = None) -> None:
    """Make each encoder, and say how large its folder is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--words", action="store_true", help="count with the run's tokenizer")
    parser.add_argument("--root", type=Path, default=FOLDER)
    arguments = parser.parse_args(argv)
    for run in arguments.runs:
        folder = (count if arguments.words else embed)(run.resolve(), arguments.root)
        print(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
