"""Members in turn, each with all threads, or side by side with one thread each: the real command, by turns in one run.

A third way would be to batch K members into stacked products. What that could gain at most is measured on the products
alone, K single ones against one stacked one (`torch.bmm`), with all threads: all else in a step is done for each member
in any case. Side by side needs no such kernel, and gains on all of the step.
"""

import json
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..errors import check_range
from ..recipes import build_config, find_schedule
from ..runs.atomic_files import write_json
from ..runs.output_folder import RESULTS_FILE
from ..runs.provenance import machine, portable, provenance
from ..training.members import pretrain_members
from ..training.pretrain_options import PretrainArguments
from ..training.processes import choose_precision

WARMUP, REPEATS = 2, 9


@dataclass
class MembersArguments:
    """Options of `tlm benchmark members`."""

    what: str = field(default="members", metadata={"help": "members."})
    recipe: str = field(default="bert-1", metadata={"help": "Architecture (python -m tlm_hf.recipes lists them)."})
    size: str = field(default="laptop", metadata={"help": "Its size."})
    members: int | None = field(default=None, metadata={"help": "Default: as many as there are CPU threads."})
    steps: int = field(default=200, metadata={"help": "Optimizer steps of each member."})
    repeats: int = field(default=3, metadata={"help": "Trainings each way (medians are taken)."})
    corpus: str = field(default="wikipedia", metadata={"help": "As in tlm pretrain."})
    num_texts: int = field(default=4000, metadata={"help": "Texts to train on."})
    tokenizer: str | None = field(default=None, metadata={"help": "As in tlm pretrain."})
    data_root: str | None = field(default=None, metadata={"help": "Folder of real text; default: $TLM_DATA."})
    json: str | None = field(default=None, metadata={"help": "File for the results."})


def stacked_products(arguments: MembersArguments, members: int, bf16: bool) -> list[dict[str, Any]]:
    """Seconds of the forward products of a step: one for each member against one stacked one, by turns, medians."""
    config, rate = build_config(arguments.recipe, arguments.size), find_schedule("tlm").mlm_probability
    hidden, positions = config.hidden_size, 32 * config.max_position_embeddings
    labelled = round(rate * positions)
    shapes = {
        "keys or values": (positions, hidden, hidden),
        "feed-forward": (labelled, hidden, config.feed_forward_size),
        "decoder": (labelled, hidden, config.vocab_size),
    }
    dtype, found = torch.bfloat16 if bf16 else torch.float32, []
    for name, (rows, inner, columns) in shapes.items():
        left = torch.randn(members, rows, inner).to(dtype)
        right = torch.randn(members, inner, columns).to(dtype)
        single, stacked = [], []
        for turn in range(WARMUP + REPEATS):
            start = time.perf_counter()
            for member in range(members):
                torch.mm(left[member], right[member])
            middle = time.perf_counter()
            torch.bmm(left, right)
            end = time.perf_counter()
            if turn >= WARMUP:
                single.append(middle - start)
                stacked.append(end - middle)
        seconds = statistics.median(single), statistics.median(stacked)
        found.append(
            {
                "product": name,
                "shape": [rows, inner, columns],
                "single_seconds": seconds[0],
                "stacked_seconds": seconds[1],
                "ratio": seconds[0] / seconds[1],
            }
        )
    return found


def benchmark_members(arguments: MembersArguments) -> dict[str, Any]:
    """Time the members of a committee in turn and side by side.

    Returns:
        `ratio_steps`: seconds for a step of all members in turn over those side by side (medians of steps);
        `ratio_whole`: the same of whole commands, process starts and tokenizer included; and `products`, see
        `stacked_products`.

    Raises:
        UserError: bad options.
    """
    check_range(arguments, 1, 10**6, "members", "repeats", "num_texts")
    check_range(arguments, 10, 10**6, "steps")
    threads = machine()["cores"] or 1
    members = arguments.members or max(2, threads)
    bf16 = choose_precision("auto", use_cpu=True)
    if arguments.json is not None:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
    ways = {"in_turn": (1, threads), "side_by_side": (min(members, threads), max(1, threads // members))}
    steps: dict[str, list[float]] = {way: [] for way in ways}
    whole: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="tlm-members-") as home:
        for turn in tqdm(range(arguments.repeats + 1), desc="rounds", unit="round"):
            for way, (workers, own_threads) in ways.items():
                folder = Path(home) / way
                options = PretrainArguments(
                    output_dir=str(folder),
                    corpus=arguments.corpus,
                    recipe=arguments.recipe,
                    size=arguments.size,
                    num_texts=arguments.num_texts,
                    tokenizer=arguments.tokenizer,
                    data_root=arguments.data_root,
                    validation_texts=32,
                    max_steps=arguments.steps,
                    num_threads=own_threads,
                    use_cpu=True,
                    disable_tqdm=True,
                )
                start = time.perf_counter()
                pretrain_members(options, members, workers)
                seconds = time.perf_counter() - start
                if turn:  # the first round of each way fills the token cache
                    whole[way].append(seconds)
                    files = sorted(folder.glob(f"member-*/{RESULTS_FILE}"))
                    steps[way].append(_seconds_of_a_step(files, members, workers))
                shutil.rmtree(folder)
    torch.set_num_threads(threads)
    medians = {way: statistics.median(values) for way, values in steps.items()}
    wholes = {way: statistics.median(values) for way, values in whole.items()}
    results = {
        "benchmark": "members",
        "recipe": f"{arguments.recipe}@{arguments.size}",
        "members": members,
        "ratio_steps": medians["in_turn"] / medians["side_by_side"],
        "ratio_whole": wholes["in_turn"] / wholes["side_by_side"],
        "seconds_of_a_step_of_all": medians,
        "seconds_of_whole_trainings": wholes,
        "ways": {way: {"workers": workers, "threads_each": own} for way, (workers, own) in ways.items()},
        "products": stacked_products(arguments, members, bf16),
        "precision": "bfloat16" if bf16 else "float32",
        "settings": portable({key: value for key, value in asdict(arguments).items() if key != "json"}),
        "load_average_at_the_end": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "provenance": provenance(),
    }
    if arguments.json is not None:
        write_json(Path(arguments.json), results)
    return results


def _seconds_of_a_step(files: list[Path], members: int, workers: int) -> float:
    """Seconds in which all members make a step, from the medians that each of them measured."""
    medians = [json.loads(file.read_text(encoding="utf-8"))["speed"]["median_step_seconds"] for file in files]
    return sum(medians) / workers if workers < members else max(medians)
