"""Benchmarks of speed: training steps and frozen committees against stock BERT, and from text to label."""

import itertools
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import torch
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertTokenizer, PreTrainedModel

from .. import runtime
from ..data.tasks import load_task
from ..errors import UserError, check_installed, check_range, refusing
from ..evaluation.latency import alternating_medians, alternating_seconds
from ..export import NEEDED, OnnxClassifier, export_onnx, quantize, write_frozen
from ..models.configuration_frozen import TABLE_DTYPES
from ..models.configuration_tlm import TLMConfig
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..models.modeling_frozen import check_freezable
from ..models.modeling_tlm import TLMForMaskedLM, TLMForSequenceClassification
from ..option_fields import option
from ..recipes import build_config
from ..runs.atomic_files import Json, write_json
from ..runs.provenance import portable, provenance
from ..runs.worker_pool import ONE_THREAD
from ..training.trainer import keep_freed_memory
from .contestants import CONTESTANTS, FROZEN, Answer, Texts

TASKS = {
    "pretraining": (BertForMaskedLM, TLMForMaskedLM),
    "finetuning": (BertForSequenceClassification, TLMForSequenceClassification),
}
CLS, FIRST_WORD = 101, 1000
GRID = ("laptop:1", "laptop:3", "laptop:5", "laptop:10", "paper:10")
Batch = dict[str, torch.Tensor]
Variant = tuple[str, str, str]  # model, runtime and precision
DEEP: Variant = ("bert-6", "torch", "float32")
PLAIN: Variant = ("committee", "torch", "float32")
SINGLES, BLOCK = 500, 25  # texts that are answered one by one, and how many of them a contestant answers in its turn
SINGLE = {**ONE_THREAD, "OPENBLAS_NUM_THREADS": "1"}


@dataclass
class TimingArguments:
    """Options of every benchmark of speed."""

    repeats: int = option(5, "Timed rounds (medians are taken).")
    num_threads: int | None = option(None, "CPU threads of each side; default: the cores.")
    json: str | None = option(None, "File for the results.")

    def set_threads(self) -> int:
        """Check the options above, give torch its threads, and return their number."""
        check_range(self, 1, 10**6, "repeats", "num_threads")
        if self.json is not None and Path(self.json).expanduser().is_dir():
            raise UserError(f"--json {self.json} is a folder: name a file.")
        threads = self.num_threads or os.cpu_count() or 1
        torch.set_num_threads(threads)
        return threads


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


@dataclass(frozen=True)
class Side:
    """One way to take a step; `best` is bfloat16 autocast, fused AdamW and gradient clipping, as our commands train."""

    stock: bool = False
    dropout: float = 0.1  # the authors'
    best: bool = False
    keeps_memory: bool = True  # the allocator's setting of our commands, which a process cannot undo


SIDES = {
    "stock": Side(stock=True, keeps_memory=False),
    "stock_same_allocator": Side(stock=True),
    "ours_same_precision": Side(),
    "ours_best_same_dropout": Side(best=True),
    "ours_best": Side(best=True, dropout=0.0),  # the default of our pre-training
}


@dataclass(unsafe_hash=True)
class StepArguments(TimingArguments):
    """Options of `tlm benchmark pretraining` and `tlm benchmark finetuning`."""

    what: str = option("pretraining", "pretraining or finetuning.")
    recipe: str = option("bert-1", "Architecture (python -m tlm_hf.recipes lists them).")
    size: str = option("paper", "Its size.")
    batch_size: int = option(32, "Texts per optimizer step.")
    mlm_probability: float = option(0.15, "Share of tokens to predict (the authors': 0.15).")


def build_model(arguments: StepArguments, side: Side) -> PreTrainedModel:
    """The side's model in training mode; the seeded weights are equal on all sides."""
    config = build_config(arguments.recipe, arguments.size, dropout=side.dropout)
    stock_class, our_class = TASKS[arguments.what]
    torch.manual_seed(0)
    return stock_class(stock_config(config)).train() if side.stock else our_class(config).train()


def build_step_batch(arguments: StepArguments, vocab_size: int, length: int) -> dict[str, torch.Tensor]:
    """Random texts of full length: `input_ids`, `attention_mask` (batch, length), and the task's `labels`."""
    generator = torch.Generator().manual_seed(1)
    shape = (arguments.batch_size, length)
    input_ids = torch.randint(5, vocab_size, shape, generator=generator)
    if arguments.what == "finetuning":
        labels = torch.randint(0, 2, shape[:1], generator=generator)
    else:
        labels = torch.where(torch.rand(shape, generator=generator) < arguments.mlm_probability, input_ids, -100)
        labels[0, 0] = input_ids[0, 0]  # at least one
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}


def build_step(arguments: StepArguments, side: Side, threads: int) -> Callable[[], None]:
    """A function that takes a step, in this process, with a model of its own."""
    torch.set_num_threads(threads)
    if side.keeps_memory:
        keep_freed_memory()
    model = build_model(arguments, side)
    batch = build_step_batch(arguments, model.config.vocab_size, model.config.max_position_embeddings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01, fused=side.best or None)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=side.best):
            loss = model(**batch).loss
        loss.backward()
        if side.best:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


_built_step = cache(build_step)


def _take_step(*arguments: Any) -> None:
    _built_step(*arguments)()


def _start_side(stack: ExitStack, *arguments: Any) -> Callable[[], None]:
    """Start a side's process, which ends with `stack`; returns what takes a step there."""
    pool = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
    pool.submit(_take_step, *arguments).result()  # waits for the imports and the model
    return lambda: pool.submit(_take_step, *arguments).result()


def benchmark_steps(arguments: StepArguments) -> Json:
    """Time one optimizer step against the authors' way: stock BERT, all logits, float32, AdamW's defaults.

    Returns `median_seconds` of each of the `SIDES`, and `ratios`, stock's over it. Each side has a process, and they
    take turns. Raises UserError for a recipe that stock BERT does not have, or a number out of range.
    """
    check_range(arguments, 1, 2**20, "batch_size")
    check_range(arguments, 0.01, 0.99, "mlm_probability")
    if build_config(arguments.recipe, arguments.size).has_convolution:
        raise UserError(f"Stock BERT lacks the convolution front-end of {arguments.recipe}: choose another recipe.")
    threads, sides = arguments.set_threads(), dict(SIDES)
    if arguments.what == "finetuning":
        del sides["ours_best"]
    with ExitStack() as stack:
        steps = {name: _start_side(stack, arguments, side, threads) for name, side in sides.items()}
        seconds = alternating_seconds(steps, arguments.repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    results = {
        "benchmark": arguments.what,
        "recipe": f"{arguments.recipe}@{arguments.size}",
        "ratios": {name: medians["stock"] / value for name, value in medians.items()},
        "median_seconds": medians,
        "seconds": seconds,
        "sides": {name: asdict(side) for name, side in sides.items()},
    }
    return finish(arguments, results)


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
    """Time frozen committees, in every runtime and precision, beside the committee and stock bert-6 (sdpa).

    Returns `rows`, one for each committee, batch size, `model` (bert-6, committee, frozen), `runtime` and `precision`:
    `ms`; `ratio`, bert-6 over it; but for bert-6 `max_abs_diff` of the members' logits. UserError for bad input.
    """
    if not arguments.batch_size or min(arguments.batch_size) < 1:
        raise UserError(f"--batch-size is {arguments.batch_size}: give values of at least 1.")
    committees = [word.partition(":")[::2] for word in dict.fromkeys(arguments.committees)]
    for size, count in committees:
        if not count.isdecimal() or int(count) < 1:
            raise UserError(f"--committees has {size}:{count}: write SIZE:MEMBERS, such as {GRID[0]}.")
        config = build_config(arguments.recipe, size)
        no_tables = refusing(f"--recipe {arguments.recipe} has no tables", "choose bert-1", ValueError)
        with no_tables, torch.device("meta"):
            check_freezable([TLMForSequenceClassification(config)])
    check_installed(*NEEDED)
    threads, rows = arguments.set_threads(), []
    with threadpool_limits(threads), torch.inference_mode(), TemporaryDirectory() as folder:
        for size, count in tqdm(committees, desc="frozen"):
            models = _build_models(arguments.recipe, size, int(count), Path(folder, f"{size}-{count}"))
            config = models[DEEP].config
            for texts in arguments.batch_size:
                batch = build_batch(config.vocab_size, texts, config.max_position_embeddings)
                facts = {"size": size, "members": int(count), "batch_size": texts}
                rows += [facts | row for row in _time_batch(models, batch, arguments.repeats)]
    return finish(arguments, {"benchmark": "frozen", "rows": rows, "threads": threads})


def _build_models(recipe: str, size: str, count: int, folder: Path) -> dict[Variant, Any]:
    config, deep = build_config(recipe, size), stock_classifier(build_config("bert-6", size))
    members = [TLMForSequenceClassification(config).eval() for _ in range(count)]
    committee = CommitteeForSequenceClassification.from_members(members)
    models: dict[Variant, Any] = {DEEP: deep, PLAIN: committee}
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


def _time_batch(models: dict[Variant, Any], batch: Batch, repeats: int) -> list[Json]:
    lengths = batch["attention_mask"].sum(dim=1)
    ids = [row[:end].tolist() for row, end in zip(batch["input_ids"], lengths, strict=True)]
    calls: dict[Variant, Callable[[], Any]] = {
        side: partial(model.member_logits, ids) if side[1] == "numpy" else partial(model, **batch)
        for side, model in models.items()
    }
    seconds = alternating_medians(calls, repeats)
    exact = models[PLAIN](**batch).member_logits
    rows: list[Json] = []
    for side, median in seconds.items():
        row: Json = dict(zip(("model", "runtime", "precision"), side, strict=True))
        row |= {"sequence_length": len(batch["input_ids"][0]), "ms": 1000 * median, "ratio": seconds[DEEP] / median}
        if side[0] != "bert-6":
            answer = calls[side]()
            logits = torch.from_numpy(answer) if side[1] == "numpy" else answer.member_logits.float()
            row["max_abs_diff"] = float((logits - exact).abs().max())
        rows.append(row)
    return rows


@dataclass
class TextToLabelArguments(TimingArguments):
    """Options of `tlm benchmark text-to-label`."""

    model: str = option("", "Folder of a frozen committee (made by tlm freeze).")
    task: str = option("ag_news", "Task whose test texts are classified.")
    data_root: str | None = option(None, "Folder of real text; default: $TLM_DATA.")
    num_texts: int = option(2000, "Texts of a timed pass.")
    contestants: list[str] = option(lambda: list(CONTESTANTS), "Models to time.", choices=list(CONTESTANTS))


def benchmark_text_to_label(arguments: TextToLabelArguments) -> Json:
    """Time a frozen committee and its rivals on real texts, on one thread, in turns.

    Returns `rows`, one for each contestant: `texts_per_second` of a batch; `ratio`, its time over that of the bare
    tokenizer; `p50_ms` and `p99_ms` of a single text; `cold_start_seconds` from process start to the first answer;
    `resident_mib` of that process. `skipped`: why a contestant has no row. Raises UserError for bad input.
    """
    check_range(arguments, 1, 10**6, "num_texts")
    try:
        tables = runtime.load(arguments.model)
    except ValueError as error:
        raise UserError(f"benchmark text-to-label needs a frozen committee as --model: {error}") from error
    if arguments.num_threads not in (None, 1):
        raise UserError("benchmark text-to-label is of one thread: leave --num-threads out.")
    task = load_task(arguments.task, root=arguments.data_root)
    arguments.num_threads = 1
    arguments.set_threads()
    texts = list(itertools.islice(itertools.cycle(task["test"]["text"][:]), arguments.num_texts))
    answers, skipped = {}, {}
    with TemporaryDirectory() as root, threadpool_limits(1), patch.dict(os.environ, SINGLE):
        folder = Path(root)
        shutil.copytree(tables.folder, folder / FROZEN)
        for name in dict.fromkeys(["tokenizer", *arguments.contestants]):
            train, needs = CONTESTANTS[name]
            try:
                check_installed(*needs)
                answers[name] = train(folder, (task["train"]["text"][:], task["train"]["label"][:]))
            except UserError as error:
                skipped[name] = str(error)
        rows = _compare(arguments.repeats, answers, folder, texts)
    return finish(arguments, {"benchmark": "text-to-label", "rows": rows, "skipped": skipped})


def _compare(repeats: int, answers: dict[str, Answer], folder: Path, texts: Texts) -> list[Json]:
    seconds = alternating_medians({name: partial(answer, texts) for name, answer in answers.items()}, repeats)
    singles: dict[str, list[float]] = {name: [] for name in answers}  # milliseconds of each text by itself
    for start in range(0, min(len(texts), SINGLES), BLOCK):
        for name, answer in answers.items():
            answer(texts[:1])
            for text in texts[start : start + BLOCK]:
                begin = time.perf_counter()
                answer([text])
                singles[name].append(1000 * (time.perf_counter() - begin))
    starts = [{name: _start_cold(name, folder, texts[0]) for name in answers} for _ in range(repeats)]
    rows: list[Json] = []
    for name in answers:
        row: Json = {"model": name, "texts": len(texts), "texts_per_second": len(texts) / seconds[name]}
        row |= {"ratio": seconds[name] / seconds["tokenizer"]}
        row |= dict(zip(("p50_ms", "p99_ms"), np.percentile(singles[name], [50, 99]).tolist(), strict=True))
        cold_start, resident = np.median([start[name] for start in starts], axis=0).tolist()
        rows.append(row | {"cold_start_seconds": cold_start, "resident_mib": resident})
    return rows


def _start_cold(name: str, folder: Path, text: str) -> tuple[float, float]:
    """Seconds from the start of a process to its first answer, and the MiB that are then resident."""
    command = [sys.executable, "-m", f"{__package__}.contestants", name, str(folder), text]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        answered = process.stdout is not None and process.stdout.readline()
        seconds = time.perf_counter() - begin
        if not answered:
            raise RuntimeError(f"The process of {name} gave no answer: {' '.join(command[:5])}")
        return seconds, psutil.Process(process.pid).memory_info().rss / 2**20
