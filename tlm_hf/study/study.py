"""The study: `plan` shows its runs and what they cost, `run` does the missing ones (`report` reads them)."""

from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import mean, median

import pandas as pd
from joblib import cpu_count

from ..data.sources import data_root
from ..errors import UserError, check_installed, check_range
from ..evaluation.linear_models import SENTENCE_ENCODER
from ..option_fields import option
from ..recipes import PRETRAINING_SCHEDULES, build_config
from ..runs.atomic_files import Json, lock
from ..runs.provenance import command_line
from ..runs.worker_pool import Job, run_jobs
from .execute import Record, execute, is_ready, read_record
from .plan import FINDINGS, Planner, StudyRun
from .plan_file import PLAN_FILE, SizePlan, check_data, read_plan
from .ray_executor import SLOTS, RayExecutor, makespan

BATCH_SIZE, MANY_LABELS = 32, 16  # texts of a step, and labels of a task, where no record has timed such a training
MULTIPLY_ADDS_PER_SECOND = 5e10  # of one core: measured were 5.1e10 (`bert-1`) to 1.3e11 (`bert-6` by fast bfloat16)
STEP_SECONDS, START_SECONDS = 0.008, 10.0  # of a training beside multiply-adds: each step; reading and scoring
NODES, DEATH_SECONDS = (1, 8, 64), 86400.0
OTHER_SECONDS = {"tokenizer": 40.0, "subsets": 60.0, "linear": 120.0, "minilm": 240.0, "latency": 60.0}


@dataclass
class StudyArguments:
    """Options of `tlm study`."""

    size: str = option("smoke", "smoke, laptop, fair or paper.")
    plan: str | None = option(None, "YAML file of the plan (default: the package's).")
    results_dir: str | None = option(None, "Records, tables and plots (default: results/study/SIZE).")
    work_dir: str | None = option(None, "Weights and checkpoints (default: outputs/study/SIZE).")
    findings: list[str] = option(list, "Only the runs of these.", choices=list(FINDINGS))
    tasks: list[str] = option(list, "Only the runs of these tasks; a report is of all.")
    recipes: list[str] = option(list, "Only the encoders of these; a report is of all.")
    workers: int | None = option(None, "Runs at once (default: one for each core).")
    executor: str = option("local", "Where: ray is a cluster (extra `cluster`; RAY_ADDRESS).", choices=["local", "ray"])
    data_root: str | None = option(None, "Folder of real text; default: $TLM_DATA.")

    @property
    def results_folder(self) -> Path:
        """Folder of tables and plots; `runs` in it has the records."""
        return Path(self.results_dir or f"results/study/{self.size}").expanduser()

    def command(self, what: str) -> str:
        """The command that a record or report names, however it was started."""
        more = [] if self.plan is None else ["--plan", Path(self.plan).name]
        more += ["--findings", *self.findings] if self.findings else []
        return command_line(["tlm", "study", what, "--size", self.size, *more])


def check_arguments(arguments: StudyArguments) -> SizePlan:
    """Refuse impossible options (UserError) before any work; returns the plan."""
    check_range(arguments, 1, 4096, "workers")
    if arguments.executor == "ray":
        check_installed("ray")
    plan = read_plan(arguments.size, arguments.plan or PLAN_FILE)
    for what, asked, known in (("task", arguments.tasks, plan.tasks), ("recipe", arguments.recipes, plan.finetuning)):
        for name in asked:
            if name not in known:
                raise UserError(f"The plan has no {what} {name!r}: choose among {', '.join(known)}.")
    return plan


@dataclass(frozen=True)
class State:
    """The runs of a plan that can be named, how many wait for a rate, and all records of the folder."""

    planner: Planner
    runs: dict[str, StudyRun]
    waiting: int
    timed: dict[str, Record]  # those of other recipes and findings tell how long a run takes

    @cached_property
    def records(self) -> dict[str, Record]:
        """The records of `runs`, in their order."""
        return {name: self.timed[name] for name in self.runs if name in self.timed}

    @cached_property
    def missing(self) -> list[StudyRun]:
        """The runs without a record, in order."""
        return [run for name, run in self.runs.items() if name not in self.timed]


def read_state(arguments: StudyArguments, plan: SizePlan) -> State:
    """The plan's runs as far as they can be named, and their records; UserError for a damaged one."""
    found = filter(None, map(read_record, sorted(arguments.results_folder.glob("runs/[!.]*"))))
    records = {record.name: record for record in found}
    tuned = [record for record in records.values() if record.kind == "finetune"]
    planner = Planner(plan, {record.name: record.results["validation"]["accuracy"] for record in tuned})
    return State(planner, *planner.expand(arguments.findings, arguments.tasks, arguments.recipes), records)


def expected_seconds(run: StudyRun, records: dict[str, Record]) -> float:
    """Seconds of a run on one core: those of the same work in the records, else a guess from multiply-adds."""
    if run.kind in OTHER_SECONDS:
        return OTHER_SECONDS[run.kind]
    settings, recipe = run.settings, run.settings["recipe"]
    of_kind = [each for each in records.values() if each.kind == run.kind]
    same = [each for each in of_kind if each.settings.get("task") == settings.get("task")]
    alike = [each for each in of_kind if each.settings["recipe"] == recipe]  # a step takes as long on any task
    config = build_config(recipe, settings["size"])
    length, hidden, channels = config.max_position_embeddings, config.hidden_size, config.conv_channels or 0
    if run.kind == "pretrain":
        steps, outputs = settings["max_steps"], config.vocab_size
        scored = round(PRETRAINING_SCHEDULES["tlm"].mlm_probability * length)  # positions that last layer and head see
    else:
        texts = settings["task_options"].get("train_per_label", 1000)
        of_size = [each for each in same if each.settings["task_options"].get("train_per_label", 1000) == texts]
        own = [each for each in of_size if each.settings["recipe"] == recipe]  # else another recipe tells when it stops
        most = round(settings["num_train_epochs"] * MANY_LABELS * texts / BATCH_SIZE)
        steps = mean(each.results["steps"] for each in own or of_size) if of_size else most
        scored, outputs = 1, MANY_LABELS
    position = 12 * hidden**2 + 2 * length * hidden
    layers = ((config.num_hidden_layers - 1) * length + scored) * position + 2 * length * hidden**2
    per_place, inputs = channels, 1  # the 1x1 convolution back to one channel
    for height, width in config.conv_kernel_sizes or []:
        per_place += inputs * channels * height * width
        inputs = channels
    text = 3 * (layers + length * hidden * per_place + scored * hidden * (hidden + outputs))
    guess = STEP_SECONDS + BATCH_SIZE * text / MULTIPLY_ADDS_PER_SECOND
    of_step = [each.results["seconds"] / each.results["steps"] for each in alike if each.results["seconds"]]
    return START_SECONDS + steps * median(of_step or [guess])


def show_plan(arguments: StudyArguments) -> Json:
    """The runs by kind and recipe: a `table` for people, counts, and `core_hours` of the missing ones."""
    plan = check_arguments(arguments)
    state = read_state(arguments, plan)
    runs, waiting, validation = state.runs, state.waiting, dict(state.planner.validation)
    while waiting:  # as if all candidates were equally good
        validation = dict.fromkeys(runs, 0.5) | validation
        runs, waiting = Planner(plan, validation).expand(arguments.findings, arguments.tasks, arguments.recipes)
    seconds = {name: expected_seconds(run, state.timed) for name, run in runs.items()}
    left = {name: expected for name, expected in seconds.items() if name not in state.records}
    lines = [[run.kind, run.settings.get("recipe", ""), 1, name in left] for name, run in runs.items()]
    table = pd.DataFrame(lines, columns=["kind", "recipe", "runs", "missing"])
    table["core-hours left"] = [left.get(name, 0) / 3600 for name in runs]
    table["longest, min"] = [seconds[name] / 60 for name in runs]
    sums = {"runs": "sum", "missing": "sum", "core-hours left": "sum", "longest, min": "max"}
    table = table.groupby(["kind", "recipe"], sort=False).agg(sums)
    hours = sum(left.values()) / 3600
    early = plan.labels.patience or any(tuning.patience for tuning in plan.finetuning.values())
    guessed = ", at most where no record tells when fine-tuning stops" if early else ""
    cost = f"about {hours:.2f} core-hours{guessed}"
    words = [f"{len(runs)} runs, {len(left)} missing: {cost}; {state.waiting} wait for their rates."]
    after = {name: [need.name for need in runs[name].needs if need.name in left] for name in left}
    for nodes in NODES if left else ():
        alive, dying = (makespan(left, after, nodes, death) / 3600 for death in (float("inf"), DEATH_SECONDS))
        words.append(f"Ray, {nodes} nodes of {SLOTS} cores: {alive:.1f} hours; {dying:.1f} if each dies once a day.")
    shown = "\n".join([table.reset_index().to_string(index=False, float_format="{:.2f}".format), *words])
    done = len(runs) - len(left)
    return {"table": shown, "runs": len(runs), "done": done, "waiting": state.waiting, "core_hours": hours}


def missing_jobs(arguments: StudyArguments, plan: SizePlan) -> list[Job]:
    """The runs to be done, and those whose weights they need again; latency is measured last, alone on the machine."""
    state = read_state(arguments, plan)
    # Whole paths: workers of a cluster run in other folders, without the variables of this shell.
    work = Path(arguments.work_dir or f"outputs/study/{arguments.size}").expanduser().resolve()
    records = str(arguments.results_folder.resolve() / "runs")
    shared = {"records": records, "data_root": arguments.data_root, "command": arguments.command("run")}
    jobs: dict[str, Job] = {}

    def add(run: StudyRun) -> None:
        needs = [n for n in run.needs if n.name not in state.records or not is_ready(n.kind, work / n.name)]
        for need in needs:
            add(need)
        options = {"kind": run.kind, "settings": run.settings, "output_dir": str(work / run.name), **shared}
        weight = expected_seconds(run, state.timed)
        jobs[run.name] = Job(run.name, execute, options, tuple(need.name for need in needs), weight)

    for run in [run for run in state.missing if run.kind != "latency"] or state.missing:
        add(run)
    return list(jobs.values())


def run_study(arguments: StudyArguments) -> Json:
    """Do every run that has no record, as many at once as there are cores; the same command continues it."""
    plan, folder = check_arguments(arguments), arguments.results_folder
    root = data_root(arguments.data_root)
    arguments = replace(arguments, data_root=None if root is None else str(root.resolve()))
    state, find_jobs = read_state(arguments, plan), partial(missing_jobs, arguments, plan)
    before = {path.name for path in folder.glob("runs/*")}  # more than can be named while a candidate is missing
    if any(run.kind == "minilm" for run in state.missing):
        check_installed(SENTENCE_ENCODER, "sentence_transformers")
    folder.mkdir(parents=True, exist_ok=True)
    holder = lock(folder / ".lock", "--results-dir")
    try:
        jobs = find_jobs()
        if jobs:
            of_all = any("tasks" in job.arguments["settings"] for job in jobs)  # the subsets read every task
            check_data(plan, arguments.data_root, () if of_all else arguments.tasks)
        cluster = RayExecutor() if arguments.executor == "ray" else None
        run_jobs(jobs, arguments.workers or cpu_count(), "Study", find_jobs, elsewhere=cluster)
    finally:
        holder.release()
    state = read_state(arguments, plan)
    return {"done": len(state.records.keys() - before), "missing": len(state.missing), "waiting": state.waiting}
