"""Frozen committees against the committee and the deep encoder that they replace, from token ids to logits.

The reference is stock BERT with the shape of `bert-6` (sdpa) in float32. Weights and tokens are random: neither changes
the time. Texts have the length that the size allows, every second one half of it. `limit_ms` of a frozen committee is
the time of its bytes at the measured bandwidth and of its multiply-adds at the measured peak of float32 products.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .. import runtime
from ..data.task_options import option
from ..errors import UserError, check_installed
from ..evaluation.latency import alternating_medians, measure_seconds
from ..export import NEEDED, OnnxClassifier, export_onnx, quantize, write_frozen
from ..models.configuration_frozen import TABLE_DTYPES
from ..models.configuration_tlm import TLMConfig
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..models.modeling_frozen import FrozenCommitteeForSequenceClassification
from ..models.modeling_tlm import TLMForSequenceClassification
from ..runs.atomic_files import Json
from .inference_speed import CLS, Batch, build_batch, stock_classifier
from .measure import TimingArguments, build_recipe, finish

RUNTIMES = ("torch", "numpy", "onnxruntime")
GRID = ("laptop:1", "laptop:3", "laptop:5", "laptop:10", "paper:10")
Side = tuple[str, str, str]
"""Model, runtime and precision."""


@dataclass
class FrozenSpeedArguments(TimingArguments):
    """Options of `tlm benchmark frozen`."""

    committees: list[str] = option(lambda: list(GRID), "SIZE:MEMBERS of each.")
    batch_size: list[int] = option(lambda: [1, 32, 256], "Texts in a batch.")
    precisions: list[str] = option(lambda: list(TABLE_DTYPES), "Of the tables.", choices=list(TABLE_DTYPES))
    runtimes: list[str] = option(
        lambda: list(RUNTIMES), "That run the tables (onnxruntime: float32 and int8).", choices=list(RUNTIMES)
    )


def benchmark_frozen(arguments: FrozenSpeedArguments) -> Json:
    """Time stock bert-6, committees and frozen committees.

    Returns:
        `rows`, one for each committee, batch size, `model`, `runtime` and `precision`: `ms`, `ratio` (bert-6 over it)
        and, but for bert-6, `max_abs_diff` of the members' logits from the committee's.

    Raises:
        UserError: an unknown size or precision, a number out of range, or packages that are missing.
    """
    if not arguments.batch_size or min(arguments.batch_size) < 1:
        raise UserError(f"--batch-size is {arguments.batch_size}: give values of at least 1.")
    for word in arguments.committees:
        size, _, count = word.partition(":")
        if not count.isdecimal() or int(count) < 1:
            raise UserError(f"--committees has {word!r}: write SIZE:MEMBERS, such as {GRID[0]}.")
        build_recipe("bert-1", size)
    if "onnxruntime" in arguments.runtimes:
        check_installed(*NEEDED)
    threads = arguments.set_threads()
    rows: list[Json] = []
    with threadpool_limits(threads), torch.inference_mode():
        speeds = _measure_machine()
        for word in arguments.committees:
            rows += _time_committee(arguments, speeds, *word.split(":"))
    return finish(arguments, {"benchmark": "frozen", "rows": rows, "threads": threads})


def _time_committee(arguments: FrozenSpeedArguments, speeds: tuple[float, float], size: str, count: str) -> list[Json]:
    torch.manual_seed(0)
    config = build_recipe("bert-1", size)
    members = [TLMForSequenceClassification(config).eval() for _ in range(int(count))]
    committee = CommitteeForSequenceClassification.from_members(members)
    deep, tokenizer = stock_classifier(build_recipe("bert-6", size, stock=True)), _tokenizer(config)
    length, rows = config.max_position_embeddings, []
    with TemporaryDirectory() as root:
        folders = {name: Path(root) / name for name in arguments.precisions}
        in_torch = {name: write_frozen(committee, tokenizer, folder, name) for name, folder in folders.items()}
        in_numpy = {name: runtime.load(folder) for name, folder in folders.items()}
        in_onnx = _export(committee.freeze(cls_token_id=tokenizer.cls_token_id), arguments, Path(root))
        for texts in arguments.batch_size:
            batch = build_batch(config.vocab_size, texts, length)
            ids = [
                row[mask > 0].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
            ]
            calls: dict[Side, Callable[[], Any]] = {
                ("bert-6", "torch", "float32"): partial(_run, deep, batch, "logits"),
                ("committee", "torch", "float32"): partial(_run, committee, batch),
            }
            for name in arguments.precisions:
                sides: dict[str, Callable[[], Any]] = {
                    "torch": partial(_run, in_torch[name], batch),
                    "numpy": partial(in_numpy[name].member_logits, ids),
                }
                if name in in_onnx:
                    sides["onnxruntime"] = partial(_run, in_onnx[name], batch)
                calls |= {("frozen", where, name): sides[where] for where in arguments.runtimes if where in sides}
            seconds, exact = alternating_medians(calls, arguments.repeats), committee(**batch).member_logits
            for side, taken in seconds.items():
                model, where, precision = side
                row: Json = {"model": model, "runtime": where, "precision": precision, "size": size}
                row |= {"members": len(members), "batch_size": texts, "sequence_length": length}
                row |= {"ms": 1000 * taken, "ratio": seconds["bert-6", "torch", "float32"] / taken}
                if model != "bert-6":
                    row["max_abs_diff"] = float((torch.as_tensor(calls[side]()) - exact).abs().max())
                if model == "frozen":
                    row["limit_ms"] = _limit(in_torch[precision], batch, *speeds)
                rows.append(row)
    return rows


def _export(
    frozen: FrozenCommitteeForSequenceClassification, arguments: FrozenSpeedArguments, folder: Path
) -> dict[str, OnnxClassifier]:
    """The frozen committee in onnxruntime, float32 and int8 as far as they are asked for."""
    names = [name for name in arguments.precisions if name != "float16"]
    if "onnxruntime" not in arguments.runtimes or not names:
        return {}
    files = {name: folder / f"{name}.onnx" for name in ("float32", "int8")}
    export_onnx(frozen, files["float32"])
    if "int8" in names:
        quantize(files["float32"], files["int8"])
    return {name: OnnxClassifier(files[name], frozen.config, torch.get_num_threads()) for name in names}


def _run(model: PreTrainedModel | OnnxClassifier, batch: Batch, output: str = "member_logits") -> torch.Tensor:
    return model(**batch)[output]


def _tokenizer(config: TLMConfig) -> PreTrainedTokenizerBase:
    """A tokenizer that knows [CLS] alone, which is all that the folder of a frozen committee needs here."""
    first = min(CLS, config.vocab_size - 1)
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "[CLS]": first}, unk_token="[UNK]"))
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", first)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="[CLS]", unk_token="[UNK]")


def _measure_machine() -> tuple[float, float]:
    """Bytes read a second, and float32 multiply-adds a second."""
    memory, matrix = torch.ones(1 << 24), torch.ones(1024, 1024)
    bandwidth = memory.nbytes / measure_seconds(memory.sum)
    return bandwidth, matrix.numel() * len(matrix) / measure_seconds(lambda: matrix @ matrix)


def _limit(model: FrozenCommitteeForSequenceClassification, batch: Batch, bandwidth: float, peak: float) -> float:
    """Least milliseconds for a batch: bytes over bandwidth and multiply-adds over peak."""
    texts, tokens = len(batch["input_ids"]), int(batch["attention_mask"].sum())
    weights = [value for name, value in model.named_parameters() if name.endswith(".weight") and value.dim() == 3]
    rows = [model.values[0].nbytes, model.scores[0].nbytes, 4 * model.config.num_members]
    size = sum(weight.nbytes for weight in weights) + tokens * sum(rows)
    products = texts * sum(weight.numel() for weight in weights) + 2 * tokens * model.values[0].numel()
    return 1000 * (size / bandwidth + products / peak)
