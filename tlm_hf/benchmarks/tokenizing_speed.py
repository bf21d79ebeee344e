"""Speed and memory of tokenising into the token cache, against the bare `tokenizers` library, by turns in one run.

Every measurement is a process of its own, one at a time, with as many threads of `tokenizers` as the machine has cores.
The bare sides have all texts in a Python list beforehand and keep no token id: `encode_batch` on all of them at once,
and on as many at a time as the cache takes (ratios are against the faster of the two). Ours starts at the memory-mapped
table and ends with the cache on disk, opened: fingerprint, tokens, writing, flushing and checking are all in its time.
"""

import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import datasets
from tokenizers import Tokenizer
from tqdm import tqdm

from ..data.sources import data_root, read_table
from ..data.token_cache import tokenize_once
from ..data.tokenization import TEXTS_AT_ONCE, TextColumn, load_tokenizer
from ..errors import UserError, check_range
from ..runs.atomic_files import write_json
from ..runs.provenance import provenance
from .process_memory import process_memory

SIDES = ("bare_at_once", "bare_in_parts", "ours", "ours_again")
SAMPLING_SECONDS = 0.005


@dataclass
class TokenizingArguments:
    """Options of `tlm benchmark tokenizing`."""

    what: str = field(default="tokenizing", metadata={"help": "tokenizing."})
    json: str | None = field(default=None, metadata={"help": "File for the results."})
    data_root: str | None = field(default=None, metadata={"help": "Folder of real text; default: $TLM_DATA."})
    num_texts: int = field(default=100_000, metadata={"help": "Paragraphs; memory also at a quarter and a half."})
    max_length: int = field(default=128, metadata={"help": "Tokens per text."})
    repeats: int = field(default=3, metadata={"help": "Timed runs of each side (medians are taken)."})


class PeakMemory:
    """Largest memory of this process, in MiB, while the block runs (Linux; None elsewhere).

    `anonymous` is what the process has allocated, looked at every 5 ms; `resident` is the kernel's own maximum since
    the process began, which also counts pages of mapped files, such as the texts: those the kernel takes back at need.
    """

    anonymous: float | None = None
    resident: float | None = None

    def __enter__(self) -> "PeakMemory":
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._over.set()
        self._watcher.join()
        self.resident = _mib("VmHWM")

    def _watch(self) -> None:
        while True:
            now = _mib("RssAnon")
            if now is None:
                return
            self.anonymous = max(now, self.anonymous or 0.0)
            if self._over.wait(SAMPLING_SECONDS):
                return


def _mib(name: str) -> float | None:
    """A figure of this process' memory in MiB."""
    found = process_memory(name)
    return None if found is None else found / 2**20


def _measure(connection: Connection, side: str, folder: str, max_length: int, num_texts: int, cache: str) -> None:
    """Body of one process: sends seconds, tokens where they are known, and memory before and at its peak."""
    dataset = _paragraphs(folder).select(range(num_texts))
    tokenizer = load_tokenizer(str(Path(folder) / "vocab" / "vocab.txt"))
    work: Callable[[], Any]
    if side.startswith("bare"):
        texts = list(TextColumn(dataset))
        size = len(texts) if side == "bare_at_once" else TEXTS_AT_ONCE
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_padding()
        backend.enable_truncation(max_length)

        def work() -> None:
            for start in range(0, len(texts), size):
                backend.encode_batch(texts[start : start + size])
    else:
        if side == "ours_again":
            tokenize_once(dataset, tokenizer, max_length, cache_dir=cache)

        def work() -> Any:
            return tokenize_once(dataset, tokenizer, max_length, cache_dir=cache)

    before = _mib("RssAnon")
    with PeakMemory() as memory:
        start, start_of_all_threads = time.perf_counter(), time.process_time()
        table = work()
        seconds, processor = time.perf_counter() - start, time.process_time() - start_of_all_threads
    found = {
        "seconds": seconds,
        "processor_seconds": processor,
        "anonymous_before_mib": before,
        "anonymous_peak_mib": memory.anonymous,
    }
    found["resident_peak_mib"] = memory.resident
    if table is not None:
        found["tokens"] = int(table.lengths.sum(dtype="int64"))
    connection.send(found)


def _paragraphs(folder: str) -> datasets.Dataset:
    return read_table(str(Path(folder) / "wikipedia"))["train"]


def _in_a_process(side: str, folder: Path, max_length: int, num_texts: int) -> dict[str, Any]:
    """`_measure` in a fresh process with an empty cache."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as cache:
        process = context.Process(target=_measure, args=(theirs, side, str(folder), max_length, num_texts, cache))
        process.start()
        theirs.close()
        try:
            return ours.recv()
        except EOFError as error:
            raise UserError(
                "A side of the benchmark ended early, most likely for want of memory: see above."
            ) from error
        finally:
            process.join()


def benchmark_tokenizing(arguments: TokenizingArguments) -> dict[str, Any]:
    """Time the token cache against a bare `encode_batch`, and take its memory at three sizes of the corpus.

    Returns:
        `ratio`, speed of ours over that of the faster bare side, and `ratio_of_processor_time`, the same in time of
        all cores together, which other load on the machine changes less; medians in seconds; texts and tokens per
        second; memory in MiB at a quarter, a half and all of the texts. Without a folder of real text only `skipped`,
        which says so.

    Raises:
        UserError: a bad number, or fewer paragraphs than asked for.
    """
    check_range(arguments, 4, float("inf"), "num_texts")
    check_range(arguments, 3, 512, "max_length")
    check_range(arguments, 1, 1000, "repeats")
    folder = data_root(arguments.data_root)
    if folder is None or not (folder / "wikipedia").is_dir() or not (folder / "vocab" / "vocab.txt").is_file():
        return {
            "skipped": "There is no real text to tokenize: set TLM_DATA or --data-root to a folder that holds "
            "wikipedia/*.parquet and vocab/vocab.txt."
        }
    available = len(_paragraphs(str(folder)))  # which also converts the file, so that no side has to
    if available < arguments.num_texts:
        raise UserError(
            f"--num-texts is {arguments.num_texts}, but {folder} has {available} paragraphs: ask for fewer."
        )
    if arguments.json is not None:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
    os.environ["RAYON_NUM_THREADS"] = str(os.cpu_count() or 1)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in tqdm(range(arguments.repeats), desc="rounds", unit="round"):
        for side in SIDES:
            runs[side].append(_in_a_process(side, folder, arguments.max_length, arguments.num_texts))
    memory = {
        str(count): {
            key: round(value, 1) for key, value in _in_a_process("ours", folder, arguments.max_length, count).items()
            if key.endswith("_mib") and value is not None
        }
        for count in (arguments.num_texts // 4, arguments.num_texts // 2, arguments.num_texts)
    }  # fmt: skip
    seconds = {side: [run["seconds"] for run in found] for side, found in runs.items()}
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    processor = {side: statistics.median(run["processor_seconds"] for run in found) for side, found in runs.items()}
    bare, bare_processor = (min(side["bare_at_once"], side["bare_in_parts"]) for side in (medians, processor))
    tokens = runs["ours"][0]["tokens"]
    results = {
        "benchmark": "tokenizing",
        "ratio": bare / medians["ours"],
        "ratio_from_the_cache": bare / medians["ours_again"],
        "ratio_of_processor_time": bare_processor / processor["ours"],
        "median_seconds": medians,
        "median_processor_seconds": processor,
        "texts_per_second": {side: arguments.num_texts / value for side, value in medians.items()},
        "tokens_per_second": tokens / medians["ours"],
        "texts": arguments.num_texts,
        "tokens": tokens,
        "memory_by_texts": memory,
        "seconds": seconds,
        "threads": os.cpu_count(),
        "settings": {key: value for key, value in asdict(arguments).items() if key not in ("json", "data_root")},
        "provenance": provenance(),
    }
    if arguments.json is not None:
        write_json(Path(arguments.json), results)
    return results
