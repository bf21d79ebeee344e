"""Latency of frozen committees against the deep encoder that they replace, from token ids to logits.

The reference is stock BERT in the shape of `bert-6` (sdpa). Weights and tokens are random: neither changes the time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm
from transformers import BertForSequenceClassification, BertTokenizer

from .. import runtime
from ..errors import UserError, check_installed
from ..evaluation.latency import alternating_medians, measure_seconds
from ..export import NEEDED, OnnxClassifier, export_onnx, quantize, write_frozen
from ..models.configuration_frozen import TABLE_DTYPES
from ..models.configuration_tlm import TLMConfig
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..models.modeling_frozen import FrozenCommitteeForSequenceClassification
from ..models.modeling_tlm import TLMForSequenceClassification
from ..option_fields import option
from ..runs.atomic_files import Json
from .measure import TimingArguments, build_recipe, finish, stock_config

CLS, FIRST_WORD = 101, 1000
GRID = ("laptop:1", "laptop:3", "laptop:5", "laptop:10", "paper:10")
Batch = dict[str, torch.Tensor]
Side = tuple[str, str, str]  # model, runtime and precision
DEEP: Side = ("bert-6", "torch", "float32")
PLAIN: Side = ("committee", "torch", "float32")


@dataclass
class LatencyArguments(TimingArguments):
    """Options of `tlm benchmark frozen`."""

    recipe: str = option("bert-1", "Members (python -m tlm_hf.recipes lists them).")
    committees: list[str] = option(lambda: list(GRID), "SIZE:MEMBERS of each.")
    batch_size: list[int] = option(lambda: [1, 32, 256], "Texts in a batch.")


def stock_classifier(config: TLMConfig) -> BertForSequenceClassification:
    """Stock BERT of the configuration's shape with seeded random weights."""
    torch.manual_seed(0)
    return BertForSequenceClassification(stock_config(config)).eval()


def build_batch(vocab_size: int, texts: int, length: int) -> Batch:
    """Random tokens behind [CLS], every second text half as long: `input_ids`, `attention_mask` (texts, length)."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(min(FIRST_WORD, vocab_size // 2), vocab_size, (texts, length), generator=generator)
    input_ids[:, 0] = min(CLS, vocab_size - 1)
    mask = torch.ones_like(input_ids)
    mask[1::2, max(1, length // 2) :] = 0
    return {"input_ids": input_ids * mask, "attention_mask": mask}


def benchmark_latency(arguments: LatencyArguments) -> Json:
    """Time frozen committees, in every runtime and precision, beside the committee and stock bert-6.

    Returns `rows`, one for each committee, batch size, `model` (bert-6, committee, frozen), `runtime` and `precision`:
    `ms`; `ratio`, bert-6 over it; but for bert-6 `max_abs_diff` of the members' logits from the committee's; of a
    frozen one `limit_ms`: its bytes at the measured bandwidth and its multiply-adds at the measured peak. Raises
    UserError for an unknown recipe or size, a number out of range, or packages that are missing.
    """
    if not arguments.batch_size or min(arguments.batch_size) < 1:
        raise UserError(f"--batch-size is {arguments.batch_size}: give values of at least 1.")
    committees = [word.partition(":")[::2] for word in arguments.committees]
    for size, count in committees:
        if not count.isdecimal() or int(count) < 1:
            raise UserError(f"--committees has {size}:{count}: write SIZE:MEMBERS, such as {GRID[0]}.")
        build_recipe(arguments.recipe, size)
    check_installed(*NEEDED)
    threads, rows = arguments.set_threads(), []
    memory, matrix = torch.ones(1 << 24), torch.ones(1024, 1024)
    with threadpool_limits(threads), torch.inference_mode(), TemporaryDirectory() as folder:
        bandwidth = memory.nbytes / measure_seconds(memory.sum)
        peak = matrix.numel() * len(matrix) / measure_seconds(lambda: matrix @ matrix)  # multiply-adds a second
        for size, count in tqdm(committees, desc="frozen"):
            models = _build_models(arguments.recipe, size, int(count), Path(folder, f"{size}-{count}"))
            config = models[DEEP].config
            for texts in arguments.batch_size:
                batch = build_batch(config.vocab_size, texts, config.max_position_embeddings)
                facts = {"size": size, "members": int(count), "batch_size": texts}
                rows += [facts | row for row in _time_batch(models, batch, arguments.repeats, bandwidth, peak)]
    return finish(arguments, {"benchmark": "frozen", "rows": rows, "threads": threads})


def _build_models(recipe: str, size: str, count: int, folder: Path) -> dict[Side, Any]:
    config, deep = build_recipe(recipe, size), stock_classifier(build_recipe("bert-6", size))
    committee = CommitteeForSequenceClassification.from_members(
        [TLMForSequenceClassification(config).eval() for _ in range(count)]
    )
    models: dict[Side, Any] = {DEEP: deep, PLAIN: committee}
    # Special tokens alone are all that the folder of a frozen committee needs here.
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[SEP]": 2, "[MASK]": 3, "[CLS]": min(CLS, config.vocab_size - 1)}
    for precision in TABLE_DTYPES:
        place = folder / precision
        models["frozen", "torch", precision] = write_frozen(committee, BertTokenizer(vocabulary), place, precision)
        models["frozen", "numpy", precision] = runtime.load(place)
    exported = export_onnx(models["frozen", "torch", "float32"], folder / "model.onnx")
    for precision, file in {"float32": exported, "int8": quantize(exported, folder / "int8.onnx")}.items():
        models["frozen", "onnxruntime", precision] = OnnxClassifier(file, committee.config, torch.get_num_threads())
    return models


def _time_batch(models: dict[Side, Any], batch: Batch, repeats: int, bandwidth: float, peak: float) -> list[Json]:
    lengths = batch["attention_mask"].sum(dim=1)
    ids = [row[:end].tolist() for row, end in zip(batch["input_ids"], lengths, strict=True)]
    calls: dict[Side, Callable[[], Any]] = {
        side: partial(model.member_logits, ids) if side[1] == "numpy" else partial(model, **batch)
        for side, model in models.items()
    }
    seconds = alternating_medians(calls, repeats)
    exact, rows = models[PLAIN](**batch).member_logits, list[Json]()
    for side, median in seconds.items():
        row: Json = dict(zip(("model", "runtime", "precision"), side, strict=True))
        row |= {"sequence_length": len(batch["input_ids"][0]), "ms": 1000 * median, "ratio": seconds[DEEP] / median}
        if side[0] != "bert-6":
            answer = calls[side]()
            logits = torch.from_numpy(answer) if side[1] == "numpy" else answer.member_logits.float()
            row["max_abs_diff"] = float((logits - exact).abs().max())
        if side[0] == "frozen":
            row["limit_ms"] = _limit(models["frozen", "torch", side[2]], batch, bandwidth, peak)
        rows.append(row)
    return rows


def _limit(model: FrozenCommitteeForSequenceClassification, batch: Batch, bandwidth: float, peak: float) -> float:
    """Least milliseconds for a batch: bytes over bandwidth and multiply-adds over peak."""
    texts, tokens = len(batch["input_ids"]), int(batch["attention_mask"].sum())
    weights = [value for name, value in model.named_parameters() if name.endswith(".weight") and value.dim() == 3]
    rows = [model.values[0].nbytes, model.scores[0].nbytes, 4 * model.config.num_members]
    size = sum(weight.nbytes for weight in weights) + tokens * sum(rows)
    products = texts * sum(weight.numel() for weight in weights) + 2 * tokens * model.values[0].numel()
    return 1000 * (size / bandwidth + products / peak)
