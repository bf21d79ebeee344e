"""What the tests of the commands share: small texts, calling a command as a user does, reading what it left behind."""

import atexit
import contextlib
import csv
import functools
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers
from safetensors.torch import load_file

from tlm_hf.commands.main import main
from tlm_hf.training.trainer import ProgressFile

ROOT = Path(__file__).resolve().parent.parent
_CACHE = Path(tempfile.mkdtemp(prefix="tlm-tests-"))
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
# `datasets` converts every file that it reads: not into the home of whoever runs the tests.
datasets.config.HF_DATASETS_CACHE = _CACHE / "datasets"
os.environ["HF_DATASETS_CACHE"] = str(_CACHE / "datasets")
datasets.disable_progress_bars()

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in ("TLM_DATA", "RANK", "WORLD_SIZE")},
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": str(ROOT),
}

VOCABULARY = {
    "": "the a of and under behind near old new every small large quiet other",
    "farm": "cow barn plough wheat miller goat hay orchard hen meadow tractor milk",
    "sea": "boat harbour sail fish tide anchor wave captain net lighthouse gull storm",
    "school": "teacher lesson pupil chalk book exam essay class library desk homework spelling",
}
WORDS = {topic: words.split() for topic, words in VOCABULARY.items()}
CLASSES = ("farm", "sea", "school")


def sentence(rng: random.Random, topic: str, words: int) -> str:
    return " ".join(rng.choice(WORDS[topic if rng.random() < 0.5 else ""]) for _ in range(words))


def write_corpus(path: Path, texts: int = 120, seed: int = 0) -> Path:
    rng = random.Random(seed)
    lines = [f"{sentence(rng, rng.choice(CLASSES), rng.randint(12, 24))} number {index}" for index in range(texts)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rows_of(kind, count=90):
    """Texts of one or two topics: their labels, how many words are of the sea, or pairs of one topic or two."""
    rng, rows = random.Random(0), []
    for index in range(count):
        topics = rng.sample(CLASSES, rng.choice([1, 2]))
        parts = [f"{sentence(rng, topic, 8)} {index}" for topic in topics]
        text, other = " ".join(parts), sentence(rng, rng.choice(CLASSES), 8)
        of_sea = sum(word in "boat harbour sail fish tide anchor wave captain net gull storm" for word in text.split())
        labels = {"multi": topics, "regression": 100.0 + 5 * of_sea, "pairs": ("one", "two")[len(topics) - 1]}
        rows.append({"text": text, "other": other, "label": labels[kind]})
    return rows


def labelled_rows(per_class: int = 40, classes: Sequence[str] = ("farm", "sea"), seed: int = 1) -> list[dict[str, Any]]:
    """Rows `text`, `label` whose words tell the class."""
    rng = random.Random(seed)
    return [
        {"text": f"{sentence(rng, name, rng.randint(8, 16))} number {index}", "label": name}
        for index in range(per_class)
        for name in classes
    ]


def write_csv(path: Path, rows: Sequence[dict[str, Any]], delimiter: str = ",") -> Path:
    """Write rows with the standard library, which quotes what must be quoted; None becomes an empty cell."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_splits(folder: Path, **splits: Sequence[dict[str, Any]]) -> Path:
    """A folder with a table of rows for each split."""
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        write_csv(folder / f"{split}.csv", rows)
    return folder


def write_task(folder: Path) -> None:
    """A task whose validation texts have both labels: accuracy is 1/2 whatever the weights, the loss is not."""
    rows = labelled_rows(46)
    both = [{**row, "label": label} for row in rows[56:62] for label in ("farm", "sea")]
    write_splits(folder, train=rows[:56], validation=both, test=rows[62:])


@contextlib.contextmanager
def unchanged_process() -> Iterator[None]:
    """Give back the log levels and the thread count that a command sets for its own process."""
    levels = transformers.logging.get_verbosity(), datasets.logging.get_verbosity()
    noisy = {name: logging.getLogger(name).level for name in ("httpx", "filelock", "matplotlib", "datasets", "fsspec")}
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(levels[0])
        transformers.logging.enable_progress_bar()
        datasets.logging.set_verbosity(levels[1])
        for name, level in noisy.items():
            logging.getLogger(name).setLevel(level)
        torch.set_num_threads(threads)


FORKS = """
import gc, json, os, signal, socket, sys, traceback
import tlm_hf.runs.checkpoints, tlm_hf.training.finetune, tlm_hf.training.pretrain
from tlm_hf.commands.main import main

def before(owner, name, due, strike):
    original = getattr(owner, name)
    def wrapped(*arguments, **options):
        if due(*arguments):
            strike()
        return original(*arguments, **options)
    setattr(owner, name, wrapped)

def work(code, words, rank, variables):
    os.environ.update(variables, RANK=str(rank), LOCAL_RANK=str(rank)) if variables else None
    exec(code, {"before": before})
    try:
        main(words)
        return 0
    except SystemExit as leaving:
        return leaving.code
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()

os.fsync = lambda descriptor: None
gc.freeze()
answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    code, words, processes, log = json.loads(line)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    children, codes = {}, {}
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            os._exit(work(code, words, rank, places | {"ACCELERATE_USE_CPU": "true"} if processes > 1 else {}))
        children[child] = rank
    while children:  # as torchrun does, the others end with the first that fails
        child, status = os.wait()
        codes[children.pop(child)] = os.waitstatus_to_exitcode(status)
        for other in children if status else ():
            os.kill(other, signal.SIGTERM)
    print(json.dumps([codes[rank] for rank in range(processes)]), file=answers, flush=True)
"""


@contextlib.contextmanager
def forks() -> Iterator[Callable[..., list[int]]]:
    """Function `(code, words, processes, log)` that runs a command in forks of one process, which imports once.

    The code is run in each fork before the command; `before(owner, name, due, strike)` in it calls `strike()` before
    `owner.name` when `due(*arguments)`. Several processes know each other as those of torchrun. Returns their exit
    codes; what they say is added to the file `log`.
    """
    command = [sys.executable, "-c", FORKS]
    # A shell starts its background jobs (`tests.sh &`, nohup) with SIGINT ignored, which their children inherit and
    # Python leaves so. A handler is not inherited: where there is one, a child begins with the system's default.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)

    def start(code: str, words: Sequence[object], processes: int, log: Path) -> list[int]:
        process.stdin.write(json.dumps([code, [str(word) for word in words], processes, str(log)]) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    try:
        yield start
    finally:
        process.communicate()


@contextlib.contextmanager
def killed_after(step: int):
    """The training ends at once after a step, as if killed."""
    step_end = ProgressFile.on_step_end

    def strike(self, args, state, control, **options):
        if state.global_step == step:
            raise KeyboardInterrupt
        return step_end(self, args, state, control, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProgressFile, "on_step_end", strike)
        with pytest.raises(SystemExit):
            yield


def succeed(*words: object) -> None:
    """Run a command in this process; it must end without an exit code."""
    with unchanged_process():
        main([str(word) for word in words])


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command in this process that must refuse its input, and return what it says.

    It must leave with exit code 2, nothing on stdout, and one line on stderr, which starts with `error: `, has the
    form of a sentence and shows nothing of Python.
    """
    capsys.readouterr()
    with unchanged_process(), pytest.raises(SystemExit) as leaving:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    assert leaving.value.code == 2, captured.err
    assert captured.out == ""
    return check_error(captured.err)


def check_error(stderr: str) -> str:
    """Assert that stderr holds one error sentence and nothing else; returns the sentence."""
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    assert lines[0].endswith((".", ")")), lines[0]
    for trace in ("Traceback", "Error(", "Exception(", "<class ", "None "):
        assert trace not in lines[0], lines[0]
    return lines[0].removeprefix("error: ")


TINY_PRETRAINING = ("--size", "smoke", "--max-steps", 6, "--eval-steps", 3, "--save-steps", 3, "--disable-tqdm")
TINY_FINETUNING = ("--num-train-epochs", 2, "--disable-tqdm")


@functools.cache
def shelf() -> Path:
    """Folder of finished runs, made once through the commands; read only, so copy what you change.

    `corpus.txt` and `task.csv` (farm or sea); `encoder`; `member`, fine-tuned from it, and `scratch`; `committee` of
    both.
    """
    folder = _CACHE / "shelf"
    folder.mkdir()
    corpus, task = write_corpus(folder / "corpus.txt"), write_csv(folder / "task.csv", labelled_rows())
    encoder, member, scratch = (folder / name for name in ("encoder", "member", "scratch"))
    succeed("pretrain", "--corpus", corpus, "--output-dir", encoder, *TINY_PRETRAINING)
    succeed("finetune", "--model", encoder, "--task", task, "--output-dir", member, *TINY_FINETUNING)
    words = ("--model", encoder, "--task", task, "--from-scratch", "--seed", 1, "--output-dir", scratch)
    succeed("finetune", *words, *TINY_FINETUNING)
    words = ("--task", task, "--output-dir", folder / "committee", "--disable-tqdm")
    succeed("committee", "--members", member, scratch, *words)
    return folder


def run(*words: object, folder: Path, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    command, given = [sys.executable, *(str(word) for word in words)], {**ENVIRONMENT, **environment}
    options: dict[str, Any] = {"cwd": folder, "env": given, "timeout": timeout, "stdin": subprocess.DEVNULL}
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under a folder by its path, hidden ones included; empty when there is no folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def assert_equal_weights(one: Path, other: Path) -> None:
    ours, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
