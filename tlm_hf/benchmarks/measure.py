"""What the benchmarks share: options, recipes, and the results file (timing: `evaluation.latency`)."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig

from ..errors import UserError, check_range
from ..models.configuration_tlm import TLMConfig
from ..option_fields import option
from ..recipes import build_config
from ..runs.atomic_files import Json, write_json
from ..runs.provenance import portable, provenance

LABELS = ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")


@dataclass
class TimingArguments:
    """Options of every benchmark of speed."""

    repeats: int = option(5, "Timed rounds (medians are taken).")
    num_threads: int | None = option(None, "CPU threads of each side; default: the cores.")
    json: str | None = option(None, "File for the results.")

    def set_threads(self) -> int:
        """Check the options above, give torch its threads, and return their number."""
        check_range(self, 1, 10**6, "repeats", "num_threads")
        threads = self.num_threads or os.cpu_count() or 1
        torch.set_num_threads(threads)
        return threads


def build_recipe(recipe: str, size: str, *, stock: bool = False, **changes: Any) -> TLMConfig:
    """Configuration of a recipe with the labels of the benchmarks; `changes` go to `build_config`.

    Raises UserError for no such recipe or size, and with `stock` for a convolution front-end.
    """
    config = build_config(recipe, size, **changes)
    if stock and config.has_convolution:
        raise UserError(f"The recipe {recipe} has a convolution front-end, which stock BERT lacks: choose another.")
    config.id2label = dict(enumerate(LABELS))
    return config


def stock_config(config: TLMConfig) -> BertConfig:
    """Configuration of a stock BERT of the same shape and labels, attention by sdpa."""
    return BertConfig.from_dict({**config.to_dict(), "model_type": "bert"}, attn_implementation="sdpa")


def finish(arguments: Any, results: Json) -> Json:
    """Add the options, the command, the commit and the machine, and write the file of `--json` if there is one."""
    settings = {key: value for key, value in asdict(arguments).items() if key != "json"}
    results = {**results, "settings": portable(settings), **provenance()}
    if arguments.json is not None:
        write_json(Path(arguments.json).expanduser(), results)
    return results
