"""Latency of a committee against the deep encoder that it replaces, by turns within one run.

The reference is stock `BertForSequenceClassification` with the shape of `bert-6` (sdpa). Weights are random and tokens
too: neither changes the time. Half of the texts of a batch are half as long (of a single text none is), by padding
behind and an attention mask on both sides. `max_abs_diff` compares the committee's logits with those of its members run
one by one as stock BERT on the same weights, combined by numpy. onnxruntime's threads do not wait busily, or they would
take the cores from whoever has the next turn.
"""

import copy
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp
from torch.profiler import ProfilerActivity, profile
from tqdm.auto import tqdm
from transformers import BertConfig, BertForSequenceClassification

from ..data.tasks import load_task
from ..errors import UserError, check_range
from ..evaluation.baselines import linear_model
from ..export import OnnxClassifier, check_packages, export_onnx, quantize
from ..models.configuration_tlm import TLMConfig
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..models.modeling_tlm import TLMForSequenceClassification
from ..recipes import build_config
from ..runs.atomic_files import write_json
from ..runs.provenance import machine, provenance
from .inference_limits import Machine, limit_seconds, measure_bandwidth
from .inference_memory import measure_memory
from .inference_plots import draw_latency
from .speed import BERT_FIELDS
from .training_speed import measure_peak

LABELS, CLS, FIRST_WORD = 4, 101, 1000
WARMUP, SLOW_SECONDS, SLOW_REPEATS = 2, 5.0, 5
PRECISIONS = ("fp32", "bf16", "int8")
RUNTIMES = ("torch", "onnx")
SIDES = {"bert-mini": (4, 256), "bert-small": (4, 512)}
"""Other small encoders beside the reference: layers and hidden size (Turc et al., arXiv 1908.08962)."""
LINEAR = "tfidf"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class InferenceBenchmarkArguments:
    """Options of `tlm benchmark inference`; several values of an option give a row for each combination."""

    what: str = field(default="inference", metadata={"help": "inference."})
    members: list[int] = field(default_factory=lambda: [10], metadata={"help": "Members of the committee."})
    recipe: str = field(default="bert-1", metadata={"help": "Architecture of a member."})
    size: str = field(default="paper", metadata={"help": "Its size, and that of the reference."})
    reference: str = field(default="bert-6", metadata={"help": "Recipe whose shape the reference has."})
    batch_size: list[int] = field(default_factory=lambda: [32], metadata={"help": "Texts in a batch."})
    sequence_length: list[int] = field(default_factory=lambda: [128], metadata={"help": "Tokens of the longest text."})
    precisions: list[str] = field(default_factory=lambda: ["fp32"], metadata={"help": "fp32, bf16, int8 (onnx only)."})
    runtimes: list[str] = field(default_factory=lambda: ["torch"], metadata={"help": "torch, onnx."})
    others: bool = field(default=False, metadata={"help": "Also BERT-Mini, BERT-Small, TF-IDF + logistic regression."})
    memory: bool = field(default=False, metadata={"help": "Also the memory that the largest committee takes."})
    repeats: int = field(default=15, metadata={"help": "Timed passes of each side (5 where one takes over 5 s)."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of each side; default: the cores."})
    json: str | None = field(default=None, metadata={"help": "File for the results; a plot lies beside it."})


def benchmark_inference(arguments: InferenceBenchmarkArguments) -> dict[str, Any]:
    """Time committees against the deep encoder, and say how far they are from the machine's limits.

    Returns:
        `rows`, one for each number of members, batch size, length, runtime and precision: `committee_ms`,
        `reference_ms`, `ratio`, `max_abs_diff` (the row's committee against stock BERT members in float32), `limit_ms`
        (`inference_limits`), milliseconds by kind of operation, `profile_ms` (torch only). Where there is one row, its
        entries stand at the top too. `memory`: see `inference_memory`.

    Raises:
        UserError: unknown recipe, size, runtime or precision, a number out of range, or packages that are missing.
    """
    _refuse(arguments)
    threads = arguments.num_threads or machine()["cores"] or 1
    torch.set_num_threads(threads)
    if arguments.json is not None:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
    limits = {name: Machine(measure_bandwidth(), measure_peak(bf16=name == "bf16")) for name in ("fp32", "bf16")}
    memory = None
    if arguments.memory:
        memory = measure_memory(member_config(arguments, arguments.recipe), max(arguments.members), threads)
    rows: list[dict[str, Any]] = []
    shapes = list(itertools.product(arguments.batch_size, arguments.sequence_length))
    with TemporaryDirectory() as folder, torch.inference_mode():
        reference = _reference(arguments, threads, Path(folder))
        committees = {members: _committee(arguments, members, threads, Path(folder)) for members in arguments.members}
        for texts, length in tqdm(shapes, desc="Shapes", unit="shape"):
            rows += _rows(arguments, texts, length, committees, reference, limits)
        del committees, reference
    results = {
        **(rows[0] if len(rows) == 1 else {}),
        "rows": rows,
        "memory": memory,
        "limits": {name: asdict(found) for name, found in limits.items()},
        "settings": {key: value for key, value in asdict(arguments).items() if key != "json"},
        "threads": threads,
        "machine": machine(),
        **provenance(),
    }
    if arguments.json is not None:
        write_json(Path(arguments.json), results)
        draw_latency(rows, Path(arguments.json).with_suffix(".png"))
    return results


def _refuse(arguments: InferenceBenchmarkArguments) -> None:
    check_range(arguments, 1, 2**20, "repeats", "num_threads")
    for name in ("members", "batch_size", "sequence_length", "precisions", "runtimes"):
        values = getattr(arguments, name)
        if not values or (isinstance(values[0], int) and min(values) < 1):
            raise UserError(f"--{name.replace('_', '-')} is {values}: give values of at least 1.")
    for name, known in (("precisions", PRECISIONS), ("runtimes", RUNTIMES)):
        for value in getattr(arguments, name):
            if value not in known:
                raise UserError(f"--{name} has {value!r}: choose among {', '.join(known)}.")
    if not _kinds(arguments):
        raise UserError("int8 is onnxruntime's here: add --runtimes onnx.")
    if "onnx" in arguments.runtimes:
        check_packages()
    longest = max(arguments.sequence_length)
    for recipe in (arguments.recipe, arguments.reference):
        config = build_config(recipe, arguments.size, max_length=longest)
        if config.has_convolution and recipe == arguments.reference:
            raise UserError(f"The reference {recipe} has a convolution front-end, which stock BERT has not.")


def _kinds(arguments: InferenceBenchmarkArguments) -> list[tuple[str, str]]:
    """Pairs of runtime and precision that exist."""
    pairs = itertools.product(arguments.runtimes, arguments.precisions)
    return [pair for pair in pairs if pair not in (("torch", "int8"), ("onnx", "bf16"))]


def member_config(arguments: InferenceBenchmarkArguments, recipe: str) -> TLMConfig:
    """Configuration of a classifier of the recipe, for texts of the longest length that is measured."""
    config = build_config(recipe, arguments.size, max_length=max(arguments.sequence_length))
    config.id2label = {index: f"LABEL_{index}" for index in range(LABELS)}
    return config


def stock_classifier(config: TLMConfig, **changes: int) -> BertForSequenceClassification:
    """Stock BERT of the configuration's shape with seeded random weights, attention by sdpa."""
    torch.manual_seed(0)
    fields = {name: getattr(config, name) for name in BERT_FIELDS} | changes
    with torch.inference_mode(False):
        return BertForSequenceClassification(BertConfig(**fields, num_labels=LABELS, attn_implementation="sdpa")).eval()


def build_batch(vocab_size: int, texts: int, length: int) -> dict[str, torch.Tensor]:
    """Random tokens behind [CLS], every second text half as long: `input_ids`, `attention_mask` (texts, length)."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(min(FIRST_WORD, vocab_size // 2), vocab_size, (texts, length), generator=generator)
    input_ids[:, 0] = min(CLS, vocab_size - 1)
    mask = torch.ones_like(input_ids)
    mask[1::2, max(1, length // 2) :] = 0
    return {"input_ids": input_ids * mask, "attention_mask": mask}


def _answers(model: Any) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda batch: model(**batch)


def _variants(
    arguments: InferenceBenchmarkArguments, model: Any, threads: int, path: Path
) -> dict[tuple[str, str], Callable[[dict[str, torch.Tensor]], Any]]:
    """The model in every runtime and precision that is wanted, as functions of a batch."""
    found: dict[tuple[str, str], Callable[[dict[str, torch.Tensor]], Any]] = {}
    kinds = _kinds(arguments)
    if any(runtime == "onnx" for runtime, _ in kinds):
        with torch.inference_mode(False):
            exported = export_onnx(model, path)
        if ("onnx", "fp32") in kinds:
            found["onnx", "fp32"] = _answers(OnnxClassifier(exported, threads, spins=False))
        if ("onnx", "int8") in kinds:
            smaller = quantize(exported, path.with_name(f"int8-{path.name}"))
            found["onnx", "int8"] = _answers(OnnxClassifier(smaller, threads, spins=False))
            smaller.unlink()
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
    if ("torch", "fp32") in kinds:
        found["torch", "fp32"] = _answers(model)
    if ("torch", "bf16") in kinds:
        with torch.inference_mode(False):
            found["torch", "bf16"] = _answers(copy.deepcopy(model).to(torch.bfloat16))
    return found


def _reference(arguments: InferenceBenchmarkArguments, threads: int, folder: Path) -> dict[Any, Any]:
    """The deep encoder in every kind, and the other small encoders."""
    config = member_config(arguments, arguments.reference)
    found: dict[Any, Any] = _variants(arguments, stock_classifier(config), threads, folder / "reference.onnx")
    if arguments.others:
        for name, (layers, hidden) in SIDES.items():
            shape = {
                "num_hidden_layers": layers,
                "hidden_size": hidden,
                "num_attention_heads": hidden // 64,
                "intermediate_size": 4 * hidden,
            }
            found[name] = _answers(stock_classifier(config, **shape))
        found[LINEAR] = _linear()
    return found


def _linear() -> Callable[[dict[str, torch.Tensor]], Any]:
    """TF-IDF and logistic regression, fitted on the embedded texts; answers as many of them as the batch has texts.

    It starts from text, cut to as many words as the batch has tokens, where the others start from token ids.
    """
    task = load_task("docstrings", train_per_label=200, test_per_label=100)
    model = linear_model().fit(task["train"]["text"][:], task["train"]["label"][:])
    words = [text.split() for text in task["test"]["text"][:]]

    def answer(batch: dict[str, torch.Tensor]) -> Any:
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        return model.predict([" ".join(words[row % len(words)][:length]) for row, length in enumerate(lengths)])

    return answer


def _committee(arguments: InferenceBenchmarkArguments, members: int, threads: int, folder: Path) -> Any:
    """The members of a committee, and the committee in every kind."""
    config = member_config(arguments, arguments.recipe)
    torch.manual_seed(members)
    with torch.inference_mode(False):
        models = [TLMForSequenceClassification(config) for _ in range(members)]
        committee = CommitteeForSequenceClassification.from_members(models)
    return models, _variants(arguments, committee, threads, folder / f"committee-{members}.onnx")


def _rows(
    arguments: InferenceBenchmarkArguments,
    texts: int,
    length: int,
    committees: dict[int, Any],
    reference: dict[Any, Any],
    limits: dict[str, Machine],
) -> list[dict[str, Any]]:
    """All rows of one shape, everything timed by turns."""
    config = member_config(arguments, arguments.recipe)
    batch = build_batch(config.vocab_size, texts, length)
    functions: dict[Any, Callable[[dict[str, torch.Tensor]], Any]] = {
        (members, *kind): answer for members, (_, ours) in committees.items() for kind, answer in ours.items()
    }
    functions |= reference
    seconds = _by_turns(functions, batch, arguments.repeats)
    distinct, lengths = int(batch["input_ids"].unique().numel()), batch["attention_mask"].sum(dim=1).tolist()
    rows = []
    for members, (models, ours) in committees.items():
        expected = _members_apart(models, batch)
        for (runtime, precision), answer in ours.items():
            there = limits["bf16" if precision == "bf16" else "fp32"]
            logits = answer(batch)
            logits = logits if isinstance(logits, np.ndarray) else logits.logits.float().numpy()
            committee_s, reference_s = seconds[members, runtime, precision], seconds[runtime, precision]
            row: dict[str, Any] = {
                "recipe": f"{arguments.recipe}@{arguments.size}",
                "members": members,
                "batch_size": texts,
                "sequence_length": length,
                "runtime": runtime,
                "precision": precision,
                "ratio": reference_s / committee_s,
                "max_abs_diff": float(np.abs(logits - expected).max()),
                "committee_ms": 1000 * committee_s,
                "reference_ms": 1000 * reference_s,
            }
            if not config.has_convolution and config.num_hidden_layers == 1 and precision != "int8":
                element = DTYPES[precision].itemsize
                row["limit_ms"] = 1000 * limit_seconds(config, members, lengths, distinct, element, there)
            if runtime == "torch":
                row["profile_ms"] = _profile(answer, batch)
            row |= {f"{name}_ms": 1000 * seconds[name] for name in (*SIDES, LINEAR) if name in seconds}
            rows.append(row)
    return rows


def _by_turns(
    functions: dict[Any, Callable[[dict[str, torch.Tensor]], Any]],
    batch: dict[str, torch.Tensor],
    repeats: int,
) -> dict[Any, float]:
    """Median seconds of each, called by turns; fewer rounds where one of them takes long."""
    times: dict[Any, list[float]] = {name: [] for name in functions}
    slowest, turn = 0.0, 0
    while turn < WARMUP + (min(repeats, SLOW_REPEATS) if slowest > SLOW_SECONDS else repeats):
        for name, answer in functions.items():
            start = time.perf_counter()
            answer(batch)
            taken = time.perf_counter() - start
            slowest = max(slowest, taken)
            if turn >= WARMUP:
                times[name].append(taken)
        turn += 1
    return {name: statistics.median(values) for name, values in times.items()}


def _members_apart(models: list[TLMForSequenceClassification], batch: dict[str, torch.Tensor]) -> np.ndarray:
    """Log of the mean probability of the members run as stock BERT (those with a convolution as they are), in numpy."""
    votes = []
    for model in models:
        alone: Any = model
        if not model.config.has_convolution:
            alone = stock_classifier(model.config)
            alone.load_state_dict(model.state_dict())
        votes.append(log_softmax(alone(**batch).logits.double().numpy(), axis=-1))
    return logsumexp(np.stack(votes), axis=0) - np.log(len(votes))


def _profile(answer: Callable[[dict[str, torch.Tensor]], Any], batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Milliseconds of one pass by kind of operation, the ten that take the most."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        answer(batch)
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    return {event.key: round(event.self_cpu_time_total / 1000, 3) for event in events[:10]}
