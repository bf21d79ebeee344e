"""The study: `plan` shows its runs and what they cost, `run` does those that are missing (`report` reads them)."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..data.sources import data_root
from ..errors import UserError, check_range
from ..evaluation.baselines import check_sentence_encoder
from ..flops import cheapest_path, classifier_multiply_adds, masked_lm_multiply_adds
from ..recipes import build_config, find_schedule, find_size
from ..runs.provenance import command_line
from ..runs.worker_pool import Job, run_jobs
from ..training.time_budget import parse_duration
from .execute import RunArguments, execute, is_ready, read_record
from .plan import (
    FINDINGS,
    Expansion,
    Planner,
    StudyRun,
    validation_accuracies,
)
from .plan_checks import check_data
from .plan_file import PLAN_FILE, SizePlan, read_plan
from .ray_executor import check_ray, run_on_ray

logger = logging.getLogger(__name__)
RECORDS = "runs"
EXECUTORS = ("local", "ray")
OTHER_SECONDS = {"tokenizer": 40.0, "subsets": 60.0, "tfidf": 20.0, "sentence": 240.0, "latency": 60.0}
"""Guesses for what is no training."""
START_SECONDS = 10.0
"""Of a training: reading texts, scoring."""
HOUR = 3600.0
ALONE = "latency"
"""Kind of run that must have the machine to itself."""


@dataclass
class StudyArguments:
    """Options of `tlm study`."""

    what: str = field(default="", metadata={"help": "plan, run, report, or demo (a folder for the Space)."})
    size: str = field(default="smoke", metadata={"help": "smoke, laptop or paper."})
    plan: str = field(default=str(PLAN_FILE), metadata={"help": "YAML file of the plan."})
    findings: list[str] = field(
        default_factory=list, metadata={"help": "Only these: gap, corpus_size, overlap, committee, baselines."}
    )
    runs: list[str] = field(
        default_factory=list,
        metadata={"help": "Only runs whose names fit one of these patterns ('fewrel-bert-6-*'), and their needs."},
    )
    results_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of records, tables and plots (default: results/study/SIZE, or PLAN-SIZE)."},
    )
    work_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of weights and checkpoints (default: outputs/study/SIZE, or PLAN-SIZE)."},
    )
    workers: int | None = field(default=None, metadata={"help": "Runs at once (default: one for each core)."})
    stop_after: str | None = field(default=None, metadata={"help": "Start no further run after so long, such as 2h."})
    executor: str = field(
        default="local",
        metadata={"help": "local, or ray for a cluster (extra `cluster`) whose nodes all have the same folders."},
    )
    ray_address: str | None = field(
        default=None,
        metadata={"help": "With --executor ray: the cluster's address (default: RAY_ADDRESS, or a new one)."},
    )
    gpus_per_run: float = field(default=0.0, metadata={"help": "With --executor ray: GPUs that a training takes."})
    json: str | None = field(default=None, metadata={"help": "With report: file for every estimate as a row."})
    data_root: str | None = field(default=None, metadata={"help": "Folder of real text; default: $TLM_DATA."})

    @property
    def own_plan(self) -> str | None:
        """File name of a plan that is not the package's."""
        file = Path(self.plan).expanduser()
        return None if file.resolve() == PLAN_FILE.resolve() else file.name

    @property
    def title(self) -> str:
        """`laptop`, or with a plan of one's own `PLAN-laptop`, so that the reports of two plans lie apart."""
        return self.size if self.own_plan is None else f"{Path(self.own_plan).stem}-{self.size}"

    def results_folder(self) -> Path:
        """Where records, tables and plots lie."""
        return Path(self.results_dir or f"results/study/{self.title}").expanduser()

    def work_folder(self) -> Path:
        """Where weights and checkpoints lie."""
        return Path(self.work_dir or f"outputs/study/{self.title}").expanduser()

    def command(self, what: str) -> str:
        """The command that a record or report names: the same however it was started."""
        plan = [] if self.own_plan is None else ["--plan", self.own_plan]
        return command_line(["tlm", "study", what, "--size", self.size, *plan])


def check_arguments(arguments: StudyArguments) -> SizePlan:
    """Refuse impossible options before any work; returns the plan.

    Raises:
        UserError: one sentence that names the option.
    """
    check_range(arguments, 1, 4096, "workers")
    check_range(arguments, 0, 64, "gpus_per_run")
    for name in arguments.findings:
        if name not in FINDINGS:
            raise UserError(f"--findings has {name!r}: choose among {', '.join(FINDINGS)}.")
    if arguments.executor not in EXECUTORS:
        raise UserError(f"--executor is {arguments.executor!r}: choose {' or '.join(EXECUTORS)}.")
    if arguments.ray_address is not None and arguments.executor != "ray":
        raise UserError("--ray-address is that of a Ray cluster: add --executor ray, or leave it out.")
    for name in ("findings", "runs"):
        if getattr(arguments, name) and arguments.what == "report":
            raise UserError(f"A report has all findings: leave --{name} out.")
    if arguments.json is not None and not Path(arguments.json).expanduser().absolute().parent.is_dir():
        raise UserError(f"--json is {arguments.json}, whose folder is not there: make it first.")
    plan = read_plan(arguments.size, arguments.plan)
    if plan.sentence_encoder and arguments.what == "run":
        check_sentence_encoder()
    return plan


@dataclass(frozen=True)
class State:
    """The runs of a plan and the records that are there, both by name; those that are asked for (None: all)."""

    expansion: Expansion
    records: dict[str, dict[str, Any]]
    chosen: frozenset[str] | None = None

    @property
    def asked(self) -> list[StudyRun]:
        """The runs that are asked for."""
        return [run for run in self.expansion.runs.values() if self.chosen is None or run.name in self.chosen]

    @property
    def missing(self) -> list[StudyRun]:
        """Those asked for that have no record, in the order in which they are to be done."""
        left = [run for run in self.asked if run.name not in self.records]
        return sorted(left, key=lambda run: run.priority)


def read_records(arguments: StudyArguments) -> dict[str, dict[str, Any]]:
    """All whole records of the results folder, by name."""
    folder = arguments.results_folder() / RECORDS
    found = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        record = None if entry.name.startswith(".") or not entry.is_dir() else read_record(entry)
        if record is not None:
            found[entry.name] = record
    return found


def read_state(arguments: StudyArguments, plan: SizePlan) -> State:
    """The plan's runs as far as they can be named, those of `--findings` and `--runs` where given, and records."""
    records = read_records(arguments)
    expansion = Planner(plan, validation_accuracies(records)).expand()
    if arguments.findings:
        wanted = set(arguments.findings)
        expansion.runs = {name: run for name, run in expansion.runs.items() if wanted & set(run.findings)}
    there = {name: records[name] for name in expansion.runs if name in records}
    if not arguments.runs:
        return State(expansion, there)
    chosen = {name for name in expansion.runs if any(fnmatchcase(name, pattern) for pattern in arguments.runs)}
    if not chosen:
        example = next(iter(expansion.runs), "")
        raise UserError(
            f"--runs {' '.join(arguments.runs)} fits no run that can be named yet: a name is such as {example}."
        )
    return State(expansion, there, frozenset(chosen))


class Costs:
    """Seconds of runs on one core: of a record with the same work where there is one, else of its multiply-adds."""

    def __init__(self, plan: SizePlan, records: dict[str, dict[str, Any]]) -> None:
        self.plan = plan
        self.measured: dict[tuple[Any, ...], list[float]] = {}
        for record in records.values():
            if "seconds" in record:
                steps = record["steps"]
                key = self._key(record["kind"], record["settings"])
                self.measured.setdefault(key, []).append(record["seconds"] / steps)

    @staticmethod
    def _key(kind: str, settings: dict[str, Any]) -> tuple[Any, ...]:
        return kind, settings.get("recipe"), settings.get("task")

    def seconds(self, run: StudyRun) -> float:
        """Expected seconds on one core."""
        if run.kind in OTHER_SECONDS:
            return OTHER_SECONDS[run.kind]
        steps = self.steps(run)
        times = self.measured.get(self._key(run.kind, run.settings))
        step = sorted(times)[len(times) // 2] if times else self._step_seconds(run)
        return START_SECONDS + steps * step

    def steps(self, run: StudyRun) -> int:
        """Optimizer steps of a training."""
        if run.kind == "pretrain":
            return int(run.settings["max_steps"])
        options = run.settings["task_options"]
        labels = {"ag_news": 4, "dbpedia_14": 14, "fewrel": 64, "docstrings": 9}.get(run.settings["task"], 10)
        texts = labels * int(options.get("train_per_label") or find_size(self.plan.recipe_size).train_per_label)
        return max(1, round(run.settings["num_train_epochs"] * texts / 32))

    def _step_seconds(self, run: StudyRun) -> float:
        config = build_config(run.settings["recipe"], run.settings["size"])
        length = config.max_position_embeddings
        if run.kind == "pretrain":
            share = run.settings.get("mlm_probability", find_schedule("tlm").mlm_probability)
            labelled = round(share * length)
            path = cheapest_path(config, length, labelled, training=True)
            text = masked_lm_multiply_adds(config, length, labelled, path=path)
        else:
            path = cheapest_path(config, length, 1, training=True)
            text = classifier_multiply_adds(config, length, path=path, training=True)
        # Work that is not multiply-adds (optimizer, norms, Python) takes some milliseconds a step in any case.
        return 0.008 + 32 * text / self.plan.core_multiply_adds_per_second


def show_plan(arguments: StudyArguments) -> dict[str, Any]:
    """The runs by kind and finding, those that are there, and what the others cost.

    Returns:
        `table`, for people; `runs`, `done`, `waiting` (fine-tunings whose rates are not chosen yet), `core_hours` of
        all that is missing and can be named, and `rows` by kind and finding.

    Raises:
        UserError: bad options or plan.
    """
    plan = check_arguments(arguments)
    state = read_state(arguments, plan)
    costs = Costs(plan, state.records)
    runs = state.asked
    missing = {run.name for run in state.missing}
    groups: dict[tuple[str, str], list[StudyRun]] = {}
    for run in runs:
        groups.setdefault((run.findings[0] if run.findings else "all", run.kind), []).append(run)
    rows: list[dict[str, Any]] = []
    for finding, kind in sorted(groups):
        there = groups[finding, kind]
        left = [run for run in there if run.name in missing]
        longest = max(costs.seconds(run) for run in there)
        hours = sum(costs.seconds(run) for run in left) / HOUR
        rows.append(
            {"finding": finding, "kind": kind, "runs": len(there), "missing": len(left), "core_hours": hours,
             "longest_minutes": longest / 60}
        )  # fmt: skip
        if longest > HOUR:
            logger.warning(
                "A %s of %s takes %.1f hours, more than one: lower its steps.", kind, finding, longest / HOUR
            )
    head = ("finding (first)", "kind", "runs", "missing", "core-hours left", "longest, min")
    lines = [f"{head[0]:<16}{head[1]:<11}{head[2]:>6}{head[3]:>9}{head[4]:>17}{head[5]:>14}"]
    lines += [
        f"{row['finding']:<16}{row['kind']:<11}{row['runs']:>6}{row['missing']:>9}{row['core_hours']:>17.2f}"
        f"{row['longest_minutes']:>14.1f}"
        for row in rows
    ]
    hours = sum(row["core_hours"] for row in rows)
    lines.append(
        f"{len(runs)} runs, {len(missing)} missing: {hours:.2f} core-hours; {state.expansion.waiting} fine-tunings "
        "more once their rates are chosen. A run stands under the first finding that uses it."
    )
    lines += [
        f"No rate is chosen yet for {arm}: {', '.join(names)} to be done."
        for arm, names in state.expansion.open.items()
    ]
    return {
        "table": "\n".join(lines),
        "runs": len(runs),
        "done": len(runs) - len(missing),
        "waiting": state.expansion.waiting,
        "core_hours": hours,
        "rows": rows,
    }


def jobs_for(arguments: StudyArguments, plan: SizePlan, state: State, wanted: Sequence[StudyRun]) -> list[Job]:
    """The wanted runs as jobs, with those whose weights they need and that are no longer there."""
    costs = Costs(plan, state.records)
    jobs: dict[str, Job] = {}
    command = arguments.command("run")

    def add(run: StudyRun) -> None:
        if run.name in jobs:
            return
        after = []
        for name in run.needs:
            needed = state.expansion.runs[name]
            if name not in state.records or not is_ready(needed.kind, arguments.work_folder() / name):
                add(needed)
                after.append(name)
        options = RunArguments(
            run.kind, run.name, run.settings, str(arguments.work_folder() / run.name),
            str(arguments.results_folder() / RECORDS), arguments.data_root, command, run.name in state.records,
        )  # fmt: skip
        jobs[run.name] = Job(run.name, execute, options, tuple(after), weight=costs.seconds(run))

    for run in wanted:
        add(run)
    return list(jobs.values())


def run_study(arguments: StudyArguments) -> dict[str, Any]:
    """Do every run that has no record, as many at once as there are cores.

    Runs are done in the order of their priorities; rates are chosen as soon as all their candidates are there, which
    names further runs. The latency is measured last, alone. Interrupted or killed, the same command goes on; at most
    the steps since the last checkpoint of the runs in hand are lost.

    Returns:
        `done`: runs of this call; `missing`: what `--stop-after` left.

    Raises:
        UserError: bad options or plan, text that is not there (found before the first run), or what a run raises.
        KeyboardInterrupt: interrupted; every training has saved a checkpoint.
    """
    plan = check_arguments(arguments)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = arguments.workers or cores
    ends = (
        None
        if arguments.stop_after is None
        else time.monotonic() + parse_duration(arguments.stop_after, "--stop-after")
    )
    if arguments.executor == "ray":
        check_ray()
        # Workers of a cluster stand in other folders and do not have this shell's variables.
        arguments.results_dir = str(arguments.results_folder().resolve())
        arguments.work_dir = str(arguments.work_folder().resolve())
        root = data_root(arguments.data_root)
        arguments.data_root = None if root is None else str(root.resolve())
    before = len(read_state(arguments, plan).records)

    def wanted() -> list[Job]:
        if ends is not None and time.monotonic() > ends:
            return []
        state = read_state(arguments, plan)
        together = [run for run in state.missing if run.kind != ALONE]
        return jobs_for(arguments, plan, state, together or state.missing)

    with _only_one(arguments.results_folder()):
        for left in (arguments.results_folder() / RECORDS).glob(".partial-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        first = wanted()
        check_data((job.arguments.settings for job in first), arguments.data_root)
        _execute(arguments, first, wanted, workers or 1)
    state = read_state(arguments, plan)
    return {"done": len(state.records) - before, "missing": len(state.missing), "waiting": state.expansion.waiting}


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Keep a second study out of the same folder: the two would write over each other's runs."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"Another study is running in {folder}: wait for it, or give this one another --results-dir and --work-dir."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _execute(arguments: StudyArguments, first: list[Job], wanted: Callable[[], list[Job]], workers: int) -> None:
    """Do the jobs here or on a cluster: the first ones, and what is wanted after each."""
    if arguments.executor == "ray":
        run_on_ray(wanted, address=arguments.ray_address, gpus=arguments.gpus_per_run)
    else:
        run_jobs(first, workers, "Study", wanted)
