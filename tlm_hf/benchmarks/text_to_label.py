"""From text to label on one core, tokenization included: a frozen committee beside what people take for its speed."""

import itertools
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from threadpoolctl import threadpool_limits

from ..data.task_options import option
from ..data.tasks import load_task
from ..errors import UserError, check_installed, check_range
from ..evaluation.latency import alternating_medians
from ..runs.atomic_files import Json
from ..runs.worker_pool import ONE_THREAD, environment
from ..runtime import load
from .contestants import CONTESTANTS, FROZEN, Answer, Contestant, Texts
from .measure import TimingArguments, finish

BLOCK = 25
"""Single texts that a contestant answers in its turn."""
SINGLE = {**ONE_THREAD, "OPENBLAS_NUM_THREADS": "1"}


@dataclass
class TextToLabelArguments(TimingArguments):
    """Options of `tlm benchmark text-to-label`."""

    model: str = option("", "Folder of a frozen committee (made by tlm freeze).")
    task: str = option("ag_news", "Task whose test texts are classified.")
    data_root: str | None = option(None, "Folder of real text; default: $TLM_DATA.")
    num_texts: int = option(2000, "Texts of a timed pass.")
    num_single: int = option(500, "Texts that are answered one by one.")
    long_run: int = option(100_000, "Texts after which memory must be flat; 0 for none.")
    contestants: list[str] = option(lambda: list(CONTESTANTS), "Who is timed.", choices=list(CONTESTANTS))


def benchmark_text_to_label(arguments: TextToLabelArguments) -> Json:
    """Time a frozen committee and its rivals on real texts, on one thread, in turns.

    Returns:
        `rows`, one for each contestant: `texts_per_second` of a batch; `ratio`, its time over that of the bare
        tokenizer; `p50_ms` and `p99_ms` of a single text; `cold_start_seconds` from process start to the first answer;
        `resident_mib` of that process. `skipped`: why a contestant has no row. `long_run_mib`: the runtime's resident
        memory after each tenth of `long_run` texts.

    Raises:
        UserError: no frozen committee, no such task, or a number out of range.
    """
    check_range(arguments, 1, 10**6, "num_texts", "num_single")
    check_range(arguments, 0, 10**9, "long_run")
    try:
        load(arguments.model)
    except ValueError as error:
        raise UserError(f"benchmark text-to-label needs a frozen committee as --model: {error}") from error
    task = load_task(arguments.task, root=arguments.data_root)
    arguments.num_threads = 1
    arguments.set_threads()
    with TemporaryDirectory() as root, threadpool_limits(1), environment(SINGLE):
        folder = Path(root)
        shutil.copytree(arguments.model, folder / FROZEN)
        texts = list(itertools.islice(itertools.cycle(task["test"]["text"][:]), arguments.num_texts))
        entrants, skipped = {}, {}
        for name in dict.fromkeys(["tokenizer", *arguments.contestants]):
            try:
                check_installed(*CONTESTANTS[name].needs)
                CONTESTANTS[name].train(folder, task["train"]["text"][:], task["train"]["label"][:])
                entrants[name] = CONTESTANTS[name]
            except UserError as error:
                skipped[name] = str(error)
        rows = _compare(arguments, entrants, folder, texts)
        memory = _long_run(folder, task["train"]["text"][:], arguments.long_run)
    results = {"rows": rows, "skipped": skipped, "long_run_mib": memory}
    return finish(arguments, {"benchmark": "text-to-label", **results})


def _compare(
    arguments: TextToLabelArguments, entrants: dict[str, Contestant], folder: Path, texts: Texts
) -> list[Json]:
    answers = {name: entrant.open(folder) for name, entrant in entrants.items()}
    parts = {name: texts[: max(1, int(len(texts) * entrant.share))] for name, entrant in entrants.items()}
    calls = {name: partial(answer, parts[name]) for name, answer in answers.items()}
    medians = alternating_medians(calls, arguments.repeats)
    seconds = {name: median / len(parts[name]) for name, median in medians.items()}
    singles = _time_singles(answers, texts[: arguments.num_single])
    starts = [{name: _start_cold(name, folder, texts[0]) for name in entrants} for _ in range(arguments.repeats)]
    return [
        {
            "model": name,
            "texts": len(parts[name]),
            "texts_per_second": 1 / seconds[name],
            "ratio": seconds[name] / seconds["tokenizer"],
            "p50_ms": 1000 * float(np.median(singles[name])),
            "p99_ms": 1000 * float(np.quantile(singles[name], 0.99)),
            "cold_start_seconds": float(np.median([start[name][0] for start in starts])),
            "resident_mib": float(np.median([start[name][1] for start in starts])),
        }
        for name in entrants
    ]


def _time_singles(answers: dict[str, Answer], texts: Texts) -> dict[str, list[float]]:
    """Seconds of each text by itself; the contestants take turns in blocks of texts."""
    seconds: dict[str, list[float]] = {name: [] for name in answers}
    for start in range(0, len(texts), BLOCK):
        for name, answer in answers.items():
            answer(texts[:1])
            for text in texts[start : start + BLOCK]:
                begin = time.perf_counter()
                answer([text])
                seconds[name].append(time.perf_counter() - begin)
    return seconds


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


def _long_run(folder: Path, texts: Texts, count: int) -> list[float]:
    """Resident MiB after each tenth of so many texts."""
    model, supply, memory = load(folder / FROZEN), itertools.cycle(texts), []
    for _ in range(10 if count else 0):
        model(list(itertools.islice(supply, count // 10)))
        memory.append(psutil.Process().memory_info().rss / 2**20)
    return memory
