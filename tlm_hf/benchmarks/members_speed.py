"""Members of a committee pre-trained in turn, each with all threads, or side by side with a share of them each."""

import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ..errors import check_range
from ..runs.atomic_files import Json, read_json
from ..runs.output_folder import RESULTS_FILE
from ..training.members import pretrain_members
from .measure import finish


@dataclass
class MembersSpeedArguments:
    """Options of `tlm benchmark members`."""

    recipe: str = field(default="bert-1", metadata={"help": "Architecture (python -m tlm_hf.recipes lists them)."})
    size: str = field(default="laptop", metadata={"help": "Its size."})
    members: int | None = field(default=None, metadata={"help": "Default: as many as there are CPU threads."})
    steps: int = field(default=200, metadata={"help": "Optimizer steps of each member."})
    repeats: int = field(default=3, metadata={"help": "Trainings each way (medians are taken)."})
    corpus: str = field(default="wikipedia", metadata={"help": "As in tlm pretrain."})
    num_texts: int = field(default=4000, metadata={"help": "Texts to train on."})
    data_root: str | None = field(default=None, metadata={"help": "Folder of real text; default: $TLM_DATA."})
    json: str | None = field(default=None, metadata={"help": "File for the results."})


def benchmark_members(arguments: MembersSpeedArguments) -> Json:
    """Time the members of a committee in turn and side by side, by the real command.

    Returns:
        `ratio_steps`: seconds for a step of all members in turn over those side by side (medians of steps);
        `ratio_whole`: the same of whole commands, process starts and tokenizer included.

    Raises:
        UserError: bad options.
    """
    check_range(arguments, 1, 10**6, "members", "repeats", "num_texts")
    check_range(arguments, 10, 10**6, "steps")
    threads = os.cpu_count() or 1
    members = arguments.members or max(2, threads)
    workers_of = {"in_turn": 1, "side_by_side": min(members, threads)}
    steps: dict[str, list[float]] = {way: [] for way in workers_of}
    commands: dict[str, list[float]] = {way: [] for way in workers_of}
    for turn in tqdm(range(arguments.repeats + 1), desc="Rounds", unit="round"):
        for way, workers in workers_of.items():
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                _train(arguments, f"{folder}/run", members, workers, threads // workers)
                seconds = time.perf_counter() - start
                files = sorted(Path(folder).glob(f"run/member-*/{RESULTS_FILE}"))
                medians = [read_json(file)["speed"]["median_step_seconds"] for file in files]
            if turn:  # the first round fills the token cache
                commands[way].append(seconds)
                steps[way].append(seconds_of_a_step(medians, workers))
    torch.set_num_threads(threads)
    step_medians = {way: statistics.median(values) for way, values in steps.items()}
    command_medians = {way: statistics.median(values) for way, values in commands.items()}
    results = {
        "benchmark": "members",
        "recipe": f"{arguments.recipe}@{arguments.size}",
        "members": members,
        "ratio_steps": step_medians["in_turn"] / step_medians["side_by_side"],
        "ratio_whole": command_medians["in_turn"] / command_medians["side_by_side"],
        "seconds_of_a_step_of_all": step_medians,
        "seconds_of_whole_trainings": command_medians,
        "workers": workers_of,
    }
    return finish(arguments, results)


def _train(arguments: MembersSpeedArguments, folder: str, members: int, workers: int, threads: int) -> None:
    pretrain_members(
        num_members=members,
        workers=workers,
        output_dir=folder,
        corpus=arguments.corpus,
        recipe=arguments.recipe,
        size=arguments.size,
        num_texts=arguments.num_texts,
        data_root=arguments.data_root,
        validation_texts=32,
        max_steps=arguments.steps,
        num_threads=max(1, threads),
        use_cpu=True,
        disable_tqdm=True,
    )


def seconds_of_a_step(medians: list[float], workers: int) -> float:
    """Seconds in which all members make a step, from the medians that each of them measured."""
    return sum(medians) / workers if workers < len(medians) else max(medians)
