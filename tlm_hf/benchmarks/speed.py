"""Training speed and memory against the authors' way, measured by turns within one run.

The authors' way is stock BERT with labels at every position's logits, float32, `torch.optim.AdamW` with its defaults.
Each side lives in a process of its own (so that its peak memory is its own) and takes a step when it is asked to;
the sides step in turns, never two at a time, so that other load on the machine hits all alike. All of them hold their
models and optimizers throughout, which for bert-6 at paper size takes about 18 GiB together. Our sides run with the
allocator's setting of our training commands (`trainer.keep_freed_memory`), which the authors' way has not; a stock
side with it shows what that alone is worth.
"""

import gc
import multiprocessing
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, PreTrainedModel

from ..errors import UserError, check_range
from ..models.modeling_tlm import TLMForMaskedLM, TLMForSequenceClassification
from ..recipes import build_config
from ..runs.atomic_files import write_json
from ..runs.provenance import machine, provenance
from ..training.trainer import keep_freed_memory
from .process_memory import process_memory

LABELS = 4
WARMUP = 2
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
BERT_FIELDS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size",
    "initializer_range", "layer_norm_eps", "pad_token_id",
)  # fmt: skip
TASKS = {
    "pretraining": (BertForMaskedLM, TLMForMaskedLM),
    "finetuning": (BertForSequenceClassification, TLMForSequenceClassification),
}


@dataclass
class BenchmarkArguments:
    """Options of `tlm benchmark`."""

    what: str = field(metadata={"help": "pretraining or finetuning (the other benchmarks have options of their own)."})
    recipe: str = field(default="bert-1", metadata={"help": "Architecture (python -m tlm_hf.recipes lists them)."})
    size: str = field(default="paper", metadata={"help": "Its size."})
    json: str | None = field(default=None, metadata={"help": "File for the results."})
    batch_size: int = field(default=32, metadata={"help": "Texts per optimizer step."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens per text, in place of the size's."})
    repeats: int = field(default=7, metadata={"help": "Timed steps of each side (medians are taken)."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout of both sides (the authors': 0.1)."})
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of tokens to predict (the authors': 0.15)."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of each side; default: the cores."})


@dataclass(frozen=True)
class Side:
    """One way to take a step.

    Args:
        stock: stock BERT (else ours).
        bf16: bfloat16 autocast.
        fused: fused AdamW.
        dropout: hidden and attention dropout.
        keeps_memory: with the allocator's setting of our training commands.
        clips: gradients clipped to norm 1 by torch, as Trainer does in our training commands.
    """

    stock: bool
    bf16: bool = False
    fused: bool = False
    dropout: float = 0.0
    keeps_memory: bool = False
    clips: bool = False


def build_model(arguments: BenchmarkArguments, side: Side) -> PreTrainedModel:
    """The side's model with seeded weights, in training mode; equal weights on all sides."""
    config = build_config(arguments.recipe, arguments.size, max_length=arguments.max_length, dropout=side.dropout)
    config.id2label = {index: f"LABEL_{index}" for index in range(LABELS)}
    stock_class, our_class = TASKS[arguments.what]
    torch.manual_seed(0)
    if not side.stock:
        return our_class(config).train()
    stock_fields = {name: getattr(config, name) for name in BERT_FIELDS}
    return stock_class(BertConfig(**stock_fields, num_labels=LABELS)).train()


def build_batch(arguments: BenchmarkArguments, vocab_size: int, length: int) -> dict[str, torch.Tensor]:
    """Texts of full length with uniformly random tokens: `input_ids`, `attention_mask` (batch, length), `labels`."""
    generator = torch.Generator().manual_seed(1)
    shape = (arguments.batch_size, length)
    input_ids = torch.randint(5, vocab_size, shape, generator=generator)
    if arguments.what == "finetuning":
        labels = torch.randint(0, LABELS, (arguments.batch_size,), generator=generator)
    else:
        labels = torch.where(torch.rand(shape, generator=generator) < arguments.mlm_probability, input_ids, -100)
        labels[0, 0] = input_ids[0, 0]  # at least one
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}


def build_step(arguments: BenchmarkArguments, side: Side) -> Callable[[], float]:
    """Function that takes one optimizer step and returns its loss."""
    model = build_model(arguments, side)
    batch = build_batch(arguments, model.config.vocab_size, model.config.max_position_embeddings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01, fused=side.fused or None)

    def step() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=side.bf16):
            loss = model(**batch).loss
        loss.backward()
        if side.clips:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def matrix_product_seconds(step: Callable[[], float]) -> float:
    """Seconds of one step that torch's profiler books to matrix products (`PRODUCTS`)."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    return sum(event.self_cpu_time_total for event in found.key_averages() if event.key in PRODUCTS) / 1e6


def serve(connection: Connection, arguments: BenchmarkArguments, side: Side, threads: int) -> None:
    """Body of a side's process, which says that it is ready, answers messages until None, and then with its memory.

    An interrupt from the terminal reaches it too, and is left to the process that started it.

    "step" is answered with the seconds of a step, "profile" with those of its matrix products, None with the peak
    memory in bytes above that after the imports (None where it cannot be read).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    after_imports = process_memory("VmHWM")
    if side.keeps_memory:
        keep_freed_memory()
    step = build_step(arguments, side)
    gc.collect()
    connection.send(None)
    while message := connection.recv():
        start = time.perf_counter()
        products = matrix_product_seconds(step) if message == "profile" else step()
        connection.send(products if message == "profile" else time.perf_counter() - start)
    peak = process_memory("VmHWM")
    connection.send(peak - after_imports if peak is not None and after_imports is not None else None)


def time_by_turns(
    arguments: BenchmarkArguments, sides: dict[str, Side], threads: int
) -> tuple[dict[str, list[float]], dict[str, float | None], dict[str, float]]:
    """Seconds of each side's steps, taken by turns, its peak memory in MiB, and the seconds of its matrix products."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    memory: dict[str, float | None] = {}
    products: dict[str, float] = {}
    with ExitStack() as stack:
        ask = {name: stack.enter_context(running_side(arguments, side, threads)) for name, side in sides.items()}
        for turn in tqdm(range(WARMUP + arguments.repeats), desc="rounds", unit="round"):
            for name in sides:
                taken = ask[name]("step")
                if turn >= WARMUP:
                    seconds[name].append(taken)
        for name in sides:
            products[name] = ask[name]("profile")
        for name in sides:  # in a loop of its own: a process that ends needs the cores
            peak = ask[name](None)
            memory[name] = None if peak is None else round(peak / 2**20, 1)
    return seconds, memory, products


@contextmanager
def running_side(arguments: BenchmarkArguments, side: Side, threads: int) -> Iterator[Callable[[str | None], Any]]:
    """A side's process; the function that it gives sends it a message and returns the answer (see `serve`).

    Raises:
        UserError: the process ended early.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, arguments, side, threads), daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is the end of the pipe

    def ask(message: str | None, say: bool = True) -> Any:
        try:
            if say:
                ours.send(message)
            return ours.recv()
        except (EOFError, ConnectionError) as error:
            raise UserError(
                "A side of the benchmark ended early, most likely for want of memory: see above."
            ) from error

    try:
        ask(None, say=False)  # its imports and its model would take the cores of whoever measures here
        yield ask
    finally:
        process.terminate()
        process.join()


def differences(arguments: BenchmarkArguments) -> dict[str, float]:
    """Loss and gradients of ours against stock BERT: dropout 0, float32, the same weights, batch and masks.

    Returns:
        `loss_difference` in nats, `loss`, and `gradient_difference`, the largest entry of the gradients' difference as
        a share of the largest entry of stock BERT's gradients.
    """
    stock, ours = (build_model(arguments, Side(stock=stock)) for stock in (True, False))
    ours.load_state_dict(stock.state_dict())
    batch = build_batch(arguments, stock.config.vocab_size, stock.config.max_position_embeddings)
    losses = [model(**batch).loss for model in (stock, ours)]
    for loss in losses:
        loss.backward()
    theirs = {name: parameter.grad for name, parameter in stock.named_parameters()}
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    apart = max(float((parameter.grad - theirs[name]).abs().max()) for name, parameter in ours.named_parameters())
    return {
        "loss": losses[0].item(),
        "loss_difference": abs(losses[0].item() - losses[1].item()),
        "gradient_difference": apart / largest,
    }


def benchmark(arguments: BenchmarkArguments) -> dict[str, Any]:
    """Time one optimizer step, forward, backward and AdamW, against stock BERT's, and compare losses and memory.

    Raises:
        UserError: unknown benchmark, recipe or size, a recipe that stock BERT does not have, or a bad number.
    """
    if arguments.what not in TASKS:
        known = ", ".join((*TASKS, "adapters", "inference", "members", "precision", "tokenizing", "training"))
        raise UserError(f"There is no benchmark {arguments.what!r}; choose one of {known}.")
    check_range(arguments, 1, 2**20, "batch_size", "max_length", "repeats", "num_threads")
    check_range(arguments, 0, 0.99, "dropout")
    check_range(arguments, 0.01, 0.99, "mlm_probability")
    config = build_config(arguments.recipe, arguments.size, max_length=arguments.max_length)
    if config.has_convolution:
        raise UserError(f"The recipe {arguments.recipe} has a convolution front-end, which stock BERT has not.")
    if arguments.json is not None:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)  # before the work rather than after it
    facts = machine()
    threads = arguments.num_threads or facts["cores"] or 1
    torch.set_num_threads(threads)
    best = Side(stock=False, bf16=True, fused=True, keeps_memory=True, clips=True)
    sides = {
        "stock": Side(stock=True, dropout=arguments.dropout),
        "stock_same_allocator": Side(stock=True, dropout=arguments.dropout, keeps_memory=True),
        "ours_same_precision": Side(stock=False, dropout=arguments.dropout, keeps_memory=True),
        "ours_best_same_dropout": replace(best, dropout=arguments.dropout),
    }
    if arguments.what == "pretraining":
        # Our pre-training command's default is no dropout: its texts are seen a few times only.
        sides["ours_best"] = best
    compared = differences(arguments)
    gc.collect()
    seconds, memory, products = time_by_turns(arguments, sides, threads)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: medians["stock"] / value for name, value in medians.items()}
    results = {
        "benchmark": arguments.what,
        "recipe": f"{arguments.recipe}@{arguments.size}",
        "ratio_same_precision": ratios["ours_same_precision"],
        "ratio_best": ratios.get("ours_best", ratios["ours_best_same_dropout"]),
        "ratio_best_same_dropout": ratios["ours_best_same_dropout"],
        "ratio_same_precision_and_allocator": medians["stock_same_allocator"] / medians["ours_same_precision"],
        **compared,
        "sequences_per_second": {name: arguments.batch_size / value for name, value in medians.items()},
        "median_seconds": medians,
        "matrix_product_seconds": products,
        "seconds": seconds,
        "peak_memory_mib": memory,
        "sides": {name: asdict(side) for name, side in sides.items()},
        "settings": {key: value for key, value in asdict(arguments).items() if key != "json"},
        "shape": {"batch_size": arguments.batch_size, "length": config.max_position_embeddings}
        | {name: getattr(config, name) for name in ("vocab_size", "hidden_size", "num_hidden_layers")},
        "provenance": provenance(),
    }
    if arguments.json is not None:
        write_json(Path(arguments.json), results)
    return results
