"""The study: `plan` shows its runs and what they cost, `run` does the missing ones (`report` reads them)."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median

from filelock import FileLock, Timeout

from ..data.sources import data_root
from ..errors import UserError, check_installed, check_range
from ..evaluation.baselines import SENTENCE_ENCODER
from ..flops import cheapest_path, classifier_multiply_adds, masked_lm_multiply_adds
from ..recipes import build_config, find_schedule
from ..runs.atomic_files import Json
from ..runs.provenance import command_line
from ..runs.worker_pool import Job, run_jobs
from ..training.options import option
from ..training.time_budget import parse_duration
from .execute import Record, RunArguments, execute, is_ready, read_record
from .plan import FINDINGS, Expansion, Planner, StudyRun
from .plan_file import PLAN_FILE, SizePlan, check_data, read_plan
from .ray_executor import run_on_ray

RECORDS = "runs"
HOUR = 3600.0
BATCH_SIZE = 32
MULTIPLY_ADDS_PER_SECOND = 5e10
"""Of one core: a guess for trainings that no record has timed."""
STEP_SECONDS, START_SECONDS = 0.008, 10.0
"""Time of a training that is no multiply-adds: in each step, and once for reading and scoring texts."""
MANY_LABELS = 16
"""Labels of a task whose fine-tunings no record has timed."""
WORK = ("recipe", "task")
"""Settings on which the time of a step hangs."""
OTHER_SECONDS = {"tokenizer": 40.0, "subsets": 60.0, "tfidf": 20.0, "sentence": 240.0, "latency": 60.0}


@dataclass
class StudyArguments:
    """Options of `tlm study`."""

    what: str = option("", "plan, run, report, or demo (a folder for the Space).")
    size: str = option("smoke", "smoke, laptop or paper.")
    plan: str = option(str(PLAN_FILE), "YAML file of the plan.")
    findings: list[str] = option(list, "Only these: gap, corpus_size, overlap, committee, baselines.")
    runs: list[str] = option(list, "Only runs whose names fit a pattern ('fewrel-bert-6-*'), and their needs.")
    results_dir: str | None = option(None, "Records, tables and plots (default: results/study/SIZE, or PLAN-SIZE).")
    work_dir: str | None = option(None, "Weights and checkpoints (default: outputs/study/SIZE, or PLAN-SIZE).")
    workers: int | None = option(None, "Runs at once (default: one for each core).")
    stop_after: str | None = option(None, "Start no further run after so long, such as 2h.")
    executor: str = option("local", "local, or ray for a cluster (extra `cluster`) whose nodes share the folders.")
    ray_address: str | None = option(None, "Address of the Ray cluster (default: RAY_ADDRESS, or a new one).")
    gpus_per_run: float = option(0.0, "With --executor ray: GPUs that a training takes.")
    data_root: str | None = option(None, "Folder of real text; default: $TLM_DATA.")

    @property
    def own_plan(self) -> str | None:
        """File name of a plan that is not the package's."""
        file = Path(self.plan).expanduser()
        return None if file.resolve() == PLAN_FILE.resolve() else file.name

    @property
    def title(self) -> str:
        """`laptop`, or with another plan `PLAN-laptop`, so that two plans have separate folders."""
        return self.size if self.own_plan is None else f"{Path(self.own_plan).stem}-{self.size}"

    @property
    def results_folder(self) -> Path:
        """Folder of records, tables and plots."""
        return Path(self.results_dir or f"results/study/{self.title}").expanduser()

    @property
    def records_folder(self) -> Path:
        """Folder of records."""
        return self.results_folder / RECORDS

    @property
    def work_folder(self) -> Path:
        """Folder of weights and checkpoints."""
        return Path(self.work_dir or f"outputs/study/{self.title}").expanduser()

    def command(self, what: str) -> str:
        """The command that a record or report names, however it was started."""
        plan = [] if self.own_plan is None else ["--plan", self.own_plan]
        return command_line(["tlm", "study", what, "--size", self.size, *plan])


def check_arguments(arguments: StudyArguments) -> SizePlan:
    """Refuse impossible options (UserError) before any work; returns the plan."""
    check_range(arguments, 1, 4096, "workers")
    check_range(arguments, 0, 64, "gpus_per_run")
    for name in arguments.findings:
        if name not in FINDINGS:
            raise UserError(f"--findings has {name!r}: choose among {', '.join(FINDINGS)}.")
    if arguments.executor not in ("local", "ray"):
        raise UserError(f"--executor is {arguments.executor!r}: choose local or ray.")
    if arguments.executor == "ray":
        check_installed("ray")
    if arguments.ray_address is not None and arguments.executor != "ray":
        raise UserError("--ray-address is that of a Ray cluster: add --executor ray, or leave it out.")
    if arguments.what == "report" and (arguments.findings or arguments.runs):
        raise UserError("A report has all findings: leave --findings and --runs out.")
    plan = read_plan(arguments.size, arguments.plan)
    if plan.sentence_encoder and arguments.what == "run":
        check_installed(SENTENCE_ENCODER, "sentence_transformers")
    return plan


@dataclass(frozen=True)
class State:
    """The runs of a plan that can be named, their records by name, and the runs that the options ask for."""

    planner: Planner
    expansion: Expansion
    records: dict[str, Record]
    asked: list[StudyRun]

    @property
    def missing(self) -> list[StudyRun]:
        """Those asked for that have no record, in the order in which they are to be done."""
        left = [run for run in self.asked if run.name not in self.records]
        return sorted(left, key=lambda run: self.expansion.priorities[run.name])


def read_state(arguments: StudyArguments, plan: SizePlan) -> State:
    """The plan's runs as far as they can be named, their records, and those that the options ask for.

    Raises:
        UserError: a damaged record, or `--runs` that fit none.
    """
    folder = arguments.records_folder
    stored = [read_record(entry) for entry in sorted(folder.glob("[!.]*")) if entry.is_dir()]
    records = {record.name: record for record in stored if record is not None}
    tuned = {name: record for name, record in records.items() if record.kind == "finetune"}
    planner = Planner(plan, {name: record.results["validation"]["accuracy"] for name, record in tuned.items()})
    expansion = planner.expand()
    asked = list(expansion.runs.values())
    if arguments.findings:
        asked = [run for run in asked if set(arguments.findings) & set(expansion.findings[run.name])]
    records = {name: records[name] for name in expansion.runs if name in records}
    if arguments.runs:
        example = asked[0].name
        asked = [run for run in asked if any(fnmatchcase(run.name, pattern) for pattern in arguments.runs)]
        if not asked:
            raise UserError(f"--runs {' '.join(arguments.runs)} fits no run that can be named yet, such as {example}.")
    return State(planner, expansion, records, asked)


def expected_seconds(run: StudyRun, records: dict[str, Record]) -> float:
    """Seconds of a run on one core: those of the same work in the records, else a guess from multiply-adds."""
    if run.kind in OTHER_SECONDS:
        return OTHER_SECONDS[run.kind]
    settings = run.settings
    work = run.kind, settings["recipe"], settings.get("task")
    alike = [each.results for each in records.values() if (each.kind, *map(each.settings.get, WORK)) == work]
    config = build_config(settings["recipe"], settings["size"])
    length = config.max_position_embeddings
    if run.kind == "pretrain":
        steps = settings["max_steps"]
        labelled = round(settings.get("mlm_probability", find_schedule("tlm").mlm_probability) * length)
        path = cheapest_path(config, length, labelled, training=True)
        text = masked_lm_multiply_adds(config, length, labelled, path=path)
    else:
        texts = MANY_LABELS * settings["task_options"].get("train_per_label", 1000)
        steps = alike[-1]["steps"] if alike else round(settings["num_train_epochs"] * texts / BATCH_SIZE)
        path = cheapest_path(config, length, 1, training=True)
        text = classifier_multiply_adds(config, length, path=path, training=True)
    guess = STEP_SECONDS + BATCH_SIZE * text / MULTIPLY_ADDS_PER_SECOND
    measured = [results["seconds"] / results["steps"] for results in alike]
    return START_SECONDS + steps * median(measured or [guess])


def show_plan(arguments: StudyArguments) -> Json:
    """The runs by finding and kind: a `table` for people, and the counts and `core_hours` of the missing runs."""
    state = read_state(arguments, check_arguments(arguments))
    seconds = {run.name: expected_seconds(run, state.records) for run in state.asked}
    groups: dict[tuple[str, str], list[StudyRun]] = {}
    for run in state.asked:
        groups.setdefault((state.expansion.findings[run.name][0], run.kind), []).append(run)
    lines = [f"{'finding (first)':<16}{'kind':<11}{'runs':>6}{'missing':>9}{'core-hours left':>17}{'longest, min':>14}"]
    total = 0.0
    for (finding, kind), runs in sorted(groups.items()):
        missing = [run for run in runs if run.name not in state.records]
        hours, longest = sum(seconds[run.name] for run in missing) / HOUR, max(seconds[run.name] for run in runs)
        total += hours
        lines.append(f"{finding:<16}{kind:<11}{len(runs):>6}{len(missing):>9}{hours:>17.2f}{longest / 60:>14.1f}")
    waiting = state.expansion.waiting
    lines.append(
        f"{len(state.asked)} runs, {len(state.missing)} missing: {total:.2f} core-hours; {waiting} more fine-tunings "
        "once their rates are chosen. A run is listed under the first finding that uses it."
    )
    done = len(state.asked) - len(state.missing)
    counts = {"runs": len(state.asked), "done": done, "waiting": waiting, "core_hours": total}
    return {"table": "\n".join(lines), **counts}


def missing_jobs(arguments: StudyArguments, plan: SizePlan) -> list[Job]:
    """The runs to be done from now on, with those whose weights they need and that no longer exist.

    The latency is measured last, alone on the machine.
    """
    state = read_state(arguments, plan)
    jobs: dict[str, Job] = {}

    def add(run: StudyRun) -> None:
        work = arguments.work_folder
        needs = [
            need for need in run.needs if need.name not in state.records or not is_ready(need.kind, work / need.name)
        ]
        for need in needs:
            add(need)
        options = RunArguments(
            kind=run.kind,
            name=run.name,
            settings=run.settings,
            output_dir=str(work / run.name),
            record_dir=str(arguments.records_folder),
            data_root=arguments.data_root,
            command=arguments.command("run"),
            keep_record=run.name in state.records,
        )
        after = tuple(need.name for need in needs)
        jobs[run.name] = Job(run.name, execute, options, after, weight=expected_seconds(run, state.records))

    together = [run for run in state.missing if run.kind != "latency"]
    for run in together or state.missing:
        add(run)
    return list(jobs.values())


def run_study(arguments: StudyArguments) -> Json:
    """Do every run that has no record, as many at once as there are cores; the same command continues it.

    Rates are chosen as soon as all their candidates are done, which names further runs.

    Returns:
        `done`: runs of this call; `missing`: what `--stop-after` left; `waiting`: fine-tunings without a rate.

    Raises:
        UserError: bad options or plan, text that is missing (found before the first run), or what a run raises.
        KeyboardInterrupt: interrupted; every training has saved a checkpoint.
    """
    plan = check_arguments(arguments)
    limit = arguments.stop_after
    end = time.monotonic() + (float("inf") if limit is None else parse_duration(limit, "--stop-after"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if arguments.executor == "ray":
        # Workers of a cluster run in other folders, without the variables of this shell.
        arguments.results_dir = str(arguments.results_folder.resolve())
        arguments.work_dir = str(arguments.work_folder.resolve())
        root = data_root(arguments.data_root)
        arguments.data_root = None if root is None else str(root.resolve())
    before = len(read_state(arguments, plan).records)

    def wanted() -> list[Job]:
        return missing_jobs(arguments, plan) if time.monotonic() < end else []

    with _only_study_in(arguments.results_folder):
        for partial in arguments.records_folder.glob(".partial-*"):  # of a process that was killed
            shutil.rmtree(partial, ignore_errors=True)
        jobs = wanted()
        check_data((job.arguments.settings for job in jobs), arguments.data_root)
        if arguments.executor == "ray":
            run_on_ray(wanted, address=arguments.ray_address, gpus=arguments.gpus_per_run)
        else:
            run_jobs(jobs, arguments.workers or cores or 1, "Study", wanted)
    state = read_state(arguments, plan)
    return {"done": len(state.records) - before, "missing": len(state.missing), "waiting": state.expansion.waiting}


@contextmanager
def _only_study_in(folder: Path) -> Iterator[None]:
    """Keep a second study out of the folder: the two would overwrite each other's runs."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise UserError(
            f"Another study is running in {folder}: wait for it, or give this one another --results-dir and --work-dir."
        ) from error
