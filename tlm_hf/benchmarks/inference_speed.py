"""Latency of a committee against the deep encoder that it replaces.

The reference is stock `BertForSequenceClassification` with the shape of `bert-6` (sdpa). Weights and tokens are random:
neither changes the time. Every second text of a batch is half as long, by padding and an attention mask on both sides.
"""

import copy
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp
from tqdm.auto import tqdm
from transformers import BertForSequenceClassification

from ..errors import UserError, check_range
from ..export import OnnxClassifier, check_packages, export_onnx, quantize
from ..models.configuration_tlm import TLMConfig
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..models.modeling_tlm import TLMForSequenceClassification
from ..recipes import build_config
from ..runs.atomic_files import Json
from .measure import alternating_medians, check_stock_recipe, finish, stock_config

LABELS, CLS, FIRST_WORD = 4, 101, 1000
KINDS = ("torch-fp32", "torch-bf16", "onnx-fp32", "onnx-int8")
Batch = dict[str, torch.Tensor]
Model = Callable[..., Any]


@dataclass
class InferenceSpeedArguments:
    """Options of `tlm benchmark inference`; several values of an option give a row for each combination."""

    members: list[int] = field(default_factory=lambda: [10], metadata={"help": "Members of the committee."})
    recipe: str = field(default="bert-1", metadata={"help": "Architecture of a member."})
    size: str = field(default="paper", metadata={"help": "Its size, and that of the reference."})
    reference: str = field(default="bert-6", metadata={"help": "Recipe whose shape the reference has."})
    batch_size: list[int] = field(default_factory=lambda: [32], metadata={"help": "Texts in a batch."})
    sequence_length: list[int] = field(default_factory=lambda: [128], metadata={"help": "Tokens of the longest text."})
    kinds: list[str] = field(
        default_factory=lambda: ["torch-fp32"], metadata={"help": f"Runtime and precision: {', '.join(KINDS)}."}
    )
    repeats: int = field(default=9, metadata={"help": "Timed rounds (medians are taken)."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of each side; default: the cores."})
    json: str | None = field(default=None, metadata={"help": "File for the results."})


def stock_classifier(config: TLMConfig) -> BertForSequenceClassification:
    """Stock BERT of the configuration's shape with seeded random weights."""
    torch.manual_seed(0)
    with torch.inference_mode(False):
        return BertForSequenceClassification(stock_config(config, config.num_labels)).eval()


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
        `reference_ms` and their `ratio`, and `max_abs_diff`, the largest difference of the committee's logits from
        those of its members run one by one as stock BERT in float32.

    Raises:
        UserError: unknown recipe, size or kind, a number out of range, or packages that are missing.
    """
    _check(arguments)
    threads = arguments.num_threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    rows: list[Json] = []
    shapes = list(itertools.product(arguments.batch_size, arguments.sequence_length))
    with torch.inference_mode():
        reference = _variants(stock_classifier(_config(arguments, arguments.reference)), arguments, threads)
        members = {count: _members(arguments, count) for count in arguments.members}
        committees = {}
        for count, models in members.items():
            with torch.inference_mode(False):
                committee = CommitteeForSequenceClassification.from_members(models)
            committees[count] = _variants(committee, arguments, threads)
        for texts, length in tqdm(shapes, desc="Shapes", unit="shape"):
            batch = build_batch(_config(arguments, arguments.recipe).vocab_size, texts, length)
            functions = {f"reference {kind}": partial(model, **batch) for kind, model in reference.items()}
            for count, kinds in committees.items():
                functions |= {f"{count} {kind}": partial(model, **batch) for kind, model in kinds.items()}
            seconds = alternating_medians(functions, arguments.repeats)
            for count, kinds in committees.items():
                expected = _members_alone(members[count], batch)
                for kind, model in kinds.items():
                    runtime, precision = kind.split("-")
                    logits = model(**batch) if runtime == "onnx" else model(**batch).logits.float().numpy()
                    ours, theirs = seconds[f"{count} {kind}"], seconds[f"reference {kind}"]
                    rows.append(
                        {
                            "recipe": f"{arguments.recipe}@{arguments.size}",
                            "members": count,
                            "batch_size": texts,
                            "sequence_length": length,
                            "runtime": runtime,
                            "precision": precision,
                            "ratio": theirs / ours,
                            "max_abs_diff": float(np.abs(logits - expected).max()),
                            "committee_ms": 1000 * ours,
                            "reference_ms": 1000 * theirs,
                        }
                    )
    return finish(arguments, {"benchmark": "inference", "rows": rows, "threads": threads})


def _check(arguments: InferenceSpeedArguments) -> None:
    check_range(arguments, 1, 10**6, "repeats", "num_threads")
    for name in ("members", "batch_size", "sequence_length"):
        values = getattr(arguments, name)
        if not values or min(values) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {values}: give values of at least 1.")
    unknown = [kind for kind in arguments.kinds if kind not in KINDS]
    if unknown or not arguments.kinds:
        raise UserError(f"--kinds has {', '.join(unknown) or 'no value'}: choose among {', '.join(KINDS)}.")
    if any(kind.startswith("onnx") for kind in arguments.kinds):
        check_packages()
    check_stock_recipe(arguments.reference, arguments.size)
    build_config(arguments.recipe, arguments.size, max_length=max(arguments.sequence_length))


def _config(arguments: InferenceSpeedArguments, recipe: str) -> TLMConfig:
    config = build_config(recipe, arguments.size, max_length=max(arguments.sequence_length))
    config.id2label = {index: f"LABEL_{index}" for index in range(LABELS)}
    return config


def _members(arguments: InferenceSpeedArguments, count: int) -> list[TLMForSequenceClassification]:
    torch.manual_seed(count)
    with torch.inference_mode(False):
        return [TLMForSequenceClassification(_config(arguments, arguments.recipe)).eval() for _ in range(count)]


def _variants(model: Any, arguments: InferenceSpeedArguments, threads: int) -> dict[str, Model]:
    """The model in every runtime and precision."""
    variants: dict[str, Model] = {}
    with torch.inference_mode(False), TemporaryDirectory() as folder:
        exported = Path(folder) / "model.onnx"
        if any(kind.startswith("onnx") for kind in arguments.kinds):
            export_onnx(model, exported)
        for kind in arguments.kinds:
            if kind == "torch-fp32":
                variants[kind] = model
            elif kind == "torch-bf16":
                variants[kind] = copy.deepcopy(model).to(torch.bfloat16)
            else:
                path = exported if kind == "onnx-fp32" else quantize(exported, Path(folder) / "int8.onnx")
                variants[kind] = OnnxClassifier(path, threads)
    return variants


def _members_alone(models: list[TLMForSequenceClassification], batch: Batch) -> np.ndarray:
    """Log of the members' mean probability, each run as stock BERT (with a convolution: as it is), in numpy."""
    logits = []
    for model in models:
        alone: Any = model
        if not model.config.has_convolution:
            alone = stock_classifier(model.config)
            alone.load_state_dict(model.state_dict())
        logits.append(log_softmax(alone(**batch).logits.double().numpy(), axis=-1))
    return logsumexp(np.stack(logits), axis=0) - np.log(len(logits))
