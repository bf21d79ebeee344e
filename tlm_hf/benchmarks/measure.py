"""What the benchmarks share: stock BERT in a recipe's shape, the peak memory of a process, and the results file.

The timing loop is `evaluation.latency`: all compared things take turns within one run, and medians are compared.
"""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import BertConfig

from ..errors import UserError
from ..evaluation.latency import alternating_medians, alternating_seconds, measure_seconds
from ..models.configuration_tlm import TLMConfig
from ..recipes import build_config
from ..runs.atomic_files import Json, write_json
from ..runs.provenance import portable, provenance

BERT_FIELDS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size",
    "initializer_range", "layer_norm_eps", "pad_token_id",
)  # fmt: skip


def stock_config(config: TLMConfig, num_labels: int) -> BertConfig:
    """Configuration of a stock BERT of the same shape, attention by sdpa."""
    fields = {name: getattr(config, name) for name in BERT_FIELDS}
    return BertConfig(**fields, num_labels=num_labels, attn_implementation="sdpa")


def check_stock_recipe(recipe: str, size: str, max_length: int | None = None) -> TLMConfig:
    """Configuration of a recipe that stock BERT can have.

    Raises:
        UserError: no such recipe or size, or a recipe with a convolution front-end.
    """
    config = build_config(recipe, size, max_length=max_length)
    if config.has_convolution:
        raise UserError(f"The recipe {recipe} has a convolution front-end, which stock BERT lacks: choose another.")
    return config


def peak_memory() -> float | None:
    """Largest resident memory of this process so far, in MiB (Linux; None elsewhere)."""
    status = Path("/proc/self/status")
    match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii")) if status.exists() else None
    return int(match[1]) / 1024 if match else None


def finish(arguments: Any, results: Json) -> Json:
    """Add the options, the command, the commit and the machine, and write the file of `--json` if there is one."""
    settings = {key: value for key, value in asdict(arguments).items() if key != "json"}
    results = {**results, "settings": portable(settings), **provenance()}
    if arguments.json is not None:
        write_json(Path(arguments.json).expanduser(), results)
    return results


__all__ = [
    "alternating_medians", "alternating_seconds", "check_stock_recipe", "finish", "measure_seconds", "peak_memory",
    "stock_config",
]  # fmt: skip
