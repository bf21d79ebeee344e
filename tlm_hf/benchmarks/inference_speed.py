"""Latency of a committee against the deep encoder that it replaces.

The reference is stock `BertForSequenceClassification` with the shape of `bert-6` (sdpa). Weights and tokens are random:
neither changes the time. Every second text of a batch is half as long, by padding and an attention mask on both sides.
"""

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import BertForSequenceClassification

from ..data.task_options import option
from ..errors import UserError, check_installed
from ..evaluation.latency import alternating_medians
from ..export import NEEDED, OnnxClassifier, export_onnx, quantize
from ..models.configuration_tlm import TLMConfig
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..models.modeling_tlm import TLMForSequenceClassification
from ..runs.atomic_files import Json
from .measure import SpeedArguments, build_recipe, finish, stock_config

CLS, FIRST_WORD = 101, 1000
KINDS = ("torch-fp32", "torch-bf16", "onnx-fp32", "onnx-int8")
Batch = dict[str, torch.Tensor]
Model = Callable[..., Any]


@dataclass
class InferenceSpeedArguments(SpeedArguments):
    """Options of `tlm benchmark inference`; several values of an option give a row for each combination."""

    members: list[int] = option(lambda: [10], "Members of the committee.")
    reference: str = option("bert-6", "Recipe whose shape the reference has.")
    batch_size: list[int] = option(lambda: [32], "Texts in a batch.")
    sequence_length: list[int] = option(lambda: [128], "Tokens of the longest text.")
    kinds: list[str] = option(lambda: ["torch-fp32"], "Runtime and precision.", choices=list(KINDS))


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


def benchmark_inference(arguments: InferenceSpeedArguments) -> Json:
    """Time committees against the deep encoder.

    Returns:
        `rows`, one for each number of members, batch size, length, runtime and precision: `committee_ms`,
        `reference_ms` and their `ratio`.

    Raises:
        UserError: unknown recipe, size or kind, a number out of range, or packages that are missing.
    """
    for name in ("members", "batch_size", "sequence_length"):
        values = getattr(arguments, name)
        if not values or min(values) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {values}: give values of at least 1.")
    if any(kind.startswith("onnx") for kind in arguments.kinds):
        check_installed(*NEEDED)
    length = max(arguments.sequence_length)
    deep = build_recipe(arguments.reference, arguments.size, stock=True, max_length=length)
    config = build_recipe(arguments.recipe, arguments.size, max_length=length)
    threads = arguments.set_threads()
    models = {("reference", kind): model for kind, model in _variants(stock_classifier(deep), arguments.kinds, threads)}
    for count in arguments.members:
        torch.manual_seed(count)
        members = [TLMForSequenceClassification(config).eval() for _ in range(count)]
        committee = CommitteeForSequenceClassification.from_members(members)
        models |= {(str(count), kind): model for kind, model in _variants(committee, arguments.kinds, threads)}
    rows: list[Json] = []
    for texts, tokens in itertools.product(arguments.batch_size, arguments.sequence_length):
        batch = build_batch(config.vocab_size, texts, tokens)
        calls = {key: (lambda model=model, batch=batch: model(**batch)) for key, model in models.items()}
        with torch.inference_mode():
            seconds = alternating_medians(calls, arguments.repeats)
        for count, kind in itertools.product(arguments.members, arguments.kinds):
            ours, theirs = seconds[str(count), kind], seconds["reference", kind]
            runtime, precision = kind.split("-")
            row = {"recipe": f"{arguments.recipe}@{arguments.size}", "members": count}
            row |= {"batch_size": texts, "sequence_length": tokens, "runtime": runtime, "precision": precision}
            rows.append(row | {"ratio": theirs / ours, "committee_ms": 1000 * ours, "reference_ms": 1000 * theirs})
    return finish(arguments, {"benchmark": "inference", "rows": rows, "threads": threads})


def _variants(model: Any, kinds: list[str], threads: int) -> list[tuple[str, Model]]:
    """The model in every runtime and precision."""
    with TemporaryDirectory() as folder:
        exported, small = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        if any(kind.startswith("onnx") for kind in kinds):
            export_onnx(model, exported)
        build: dict[str, Callable[[], Model]] = {
            "torch-fp32": lambda: model,
            "torch-bf16": lambda: copy.deepcopy(model).to(torch.bfloat16),
            "onnx-fp32": lambda: OnnxClassifier(exported, model.config, threads),
            "onnx-int8": lambda: OnnxClassifier(quantize(exported, small), model.config, threads),
        }
        return [(kind, build[kind]()) for kind in kinds]
