"""An encoder from counts alone: [CLS] starts as the mean of a text's word rows, rare words counting more; no training.

python scripts/word_encoder.py --tokenizer outputs/family/tlm-bert1-0 --output-dir tlm_hf/pretrained/tlm-words

On a few hundred rows it is the best start for a classifier (`tlm finetune --head linear`, `tlm train-committee`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from embed_encoder import TEXT, shrink

from tlm_hf import TLMModel
from tlm_hf.commands.common import parse
from tlm_hf.data.cooccurrence import count_rows
from tlm_hf.data.corpora import load_corpus
from tlm_hf.data.tokenization import encode_whole, load_tokenizer
from tlm_hf.hub.manifest import MANIFEST_FILE, build_manifest
from tlm_hf.recipes import build_config
from tlm_hf.runs.atomic_files import whole_folder, write_json
from tlm_hf.runs.output_folder import RESULTS_FILE
from tlm_hf.runs.provenance import provenance
from tlm_hf.training.initialization import start_as_mean_of_words

CARD = """---
language: en
license: apache-2.0
library_name: transformers
tags: [tlm, tiny-language-model]
---

# {name}

A stock BERT of one layer, hidden size {hidden}, that was counted, not trained. Its word rows are the factorised
positive pointwise mutual information of {text}, {texts:,} of them.
Its [CLS] is the mean of a text's word rows, rare words counting more. It is meant as the start of text classifiers on
small tables (`tlm train-committee`), and fills no masks. The package `tlm_hf` made it with `{command}`.
"""
MEASURED = 2000
"""Texts on which the mean of words is standardised."""


@dataclass
class WordEncoderArguments:
    """Options of the script."""

    tokenizer: str = field(metadata={"help": "Folder of a tokenizer, such as that of an encoder."})
    output_dir: str = field(metadata={"help": "Folder of the encoder; its name is the encoder's."})
    corpus: str = field(default="wikipedia", metadata={"help": "As of tlm pretrain."})
    size: str = field(default="laptop", metadata={"help": "Width of the encoder."})
    max_length: int = field(default=128, metadata={"help": "Tokens per text."})


def main(argv: Sequence[str] | None = None) -> None:
    """Count, build, save."""
    arguments = parse(WordEncoderArguments, "word-encoder", __doc__ or "", argv)
    torch.manual_seed(0)
    tokenizer = load_tokenizer(arguments.tokenizer, arguments.max_length)
    texts = load_corpus(arguments.corpus)["train"]["text"][:]
    tokens = [np.array(ids) for ids in encode_whole(tokenizer)(texts) if ids]
    config = build_config("bert-1", arguments.size, vocab_size=len(tokenizer), max_length=arguments.max_length)
    rows = count_rows(tokens, config.vocab_size, config.hidden_size, tokenizer.all_special_ids)
    frequencies = np.bincount(np.concatenate(tokens), minlength=config.vocab_size)
    model = TLMModel(config, add_pooling_layer=False)
    start_as_mean_of_words(model, rows, frequencies, tokens[:MEASURED])
    output, made = Path(arguments.output_dir), provenance()
    facts = {"hidden": config.hidden_size, "texts": len(tokens), "command": made["command"]}
    with whole_folder(output) as folder:
        (folder / "README.md").write_text(CARD.format(name=output.name, text=TEXT, **facts), encoding="utf-8")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        shrink(folder)
        write_json(folder / RESULTS_FILE, {"kind": "words", "texts": len(tokens), **made})
        manifest = build_manifest(output.name, "encoder", version("tlm-hf"), folder, results=made | {"settings": {}})
        write_json(folder / MANIFEST_FILE, manifest)


if __name__ == "__main__":
    main()
