"""From text to label on one core, tokenization included: a frozen committee beside what people take for its speed."""

import itertools
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import psutil
from threadpoolctl import threadpool_limits

from ..data.tasks import load_task
from ..errors import UserError, check_installed, check_range
from ..evaluation.latency import alternating_medians
from ..option_fields import option
from ..runs.atomic_files import Json
from ..runs.worker_pool import ONE_THREAD
from ..runtime import load
from .contestants import CONTESTANTS, FROZEN, Answer, Texts
from .speed import TimingArguments, finish

SINGLES, BLOCK = 500, 25  # texts that are answered one by one, and how many of them a contestant answers in its turn
SINGLE = {**ONE_THREAD, "OPENBLAS_NUM_THREADS": "1"}


@dataclass
class TextToLabelArguments(TimingArguments):
    """Options of `tlm benchmark text-to-label`."""

    model: str = option("", "Folder of a frozen committee (made by tlm freeze).")
    task: str = option("ag_news", "Task whose test texts are classified.")
    data_root: str | None = option(None, "Folder of real text; default: $TLM_DATA.")
    num_texts: int = option(2000, "Texts of a timed pass.")
    contestants: list[str] = option(lambda: list(CONTESTANTS), "Who is timed.", choices=list(CONTESTANTS))


def benchmark_text_to_label(arguments: TextToLabelArguments) -> Json:
    """Time a frozen committee and its rivals on real texts, on one thread, in turns.

    Returns `rows`, one for each contestant: `texts_per_second` of a batch; `ratio`, its time over that of the bare
    tokenizer; `p50_ms` and `p99_ms` of a single text; `cold_start_seconds` from process start to the first answer;
    `resident_mib` of that process. `skipped`: why a contestant has no row. Raises UserError for bad input.
    """
    check_range(arguments, 1, 10**6, "num_texts")
    try:
        load(arguments.model)
    except ValueError as error:
        raise UserError(f"benchmark text-to-label needs a frozen committee as --model: {error}") from error
    task = load_task(arguments.task, root=arguments.data_root)
    arguments.num_threads = 1
    arguments.set_threads()
    texts = list(itertools.islice(itertools.cycle(task["test"]["text"][:]), arguments.num_texts))
    answers, skipped = {}, {}
    with TemporaryDirectory() as root, threadpool_limits(1), patch.dict(os.environ, SINGLE):
        folder = Path(root)
        shutil.copytree(arguments.model, folder / FROZEN)
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
