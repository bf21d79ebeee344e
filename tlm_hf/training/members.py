"""Several members of a committee trained side by side, each in a child process, to the bits of one trained alone."""

import logging
import math
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ..data.corpora import corpus_hash
from ..data.kinds import class_names, problem_of
from ..data.tasks import load_task_from, task_hash
from ..data.tokenization import load_tokenizer, tokenizer_hash, train_wordpiece
from ..errors import UserError, check_range
from ..evaluation.metrics import HEADLINE
from ..loading import load_matching_tokenizer, read_encoder_config, weights_hash
from ..runs.atomic_files import Json, read_json, whole_folder, write_json
from ..runs.output_folder import RESULTS_FILE, Run
from ..runs.worker_pool import Job, run_jobs
from .finetune import NEW, finetune
from .finetune_options import FinetuneOptions
from .options import LARGEST_SEED, stays_on_cpu
from .pretrain import load_pretraining_corpus, pretrain
from .pretrain_options import BATCH_SIZE, PretrainOptions
from .time_budget import BUDGET_FILE, RESERVE, TRIAL, TRIAL_STEPS, fit_members, parse_duration

logger = logging.getLogger(__name__)
TOKENIZER = "tokenizer"  # folder of the members' tokenizer inside the output folder, where none was given
OF_EACH = ("folder", "seed", "steps", "seconds_since_start_or_continuation")


def pretrain_members(*, num_members: int, workers: int | None = None, **options: Any) -> Json:
    """Pre-train K independent members, `workers` of them side by side, or continue an interrupted run.

    Member k, in `OUTPUT/member-k`, is to the last bit what `pretrain` with `--seed SEED+k`, the tokenizer in
    `OUTPUT/tokenizer` (or the one given) and the same `--num-threads` gives. Raises what `pretrain` does; returns the
    results as written: what members share, each one's held-out loss, and their spread (nats per masked token).
    """
    chosen = PretrainOptions.read({**options, "num_members": num_members, "workers": workers})
    model, config, settings = chosen.model, chosen.config(), chosen.settings()
    workers, threads = _check_members(options, num_members, workers)
    if model.tokenizer is not None:
        settings["tokenizer_sha256"] = tokenizer_hash(load_tokenizer(model.tokenizer, config.max_position_embeddings))
    corpus = load_pretraining_corpus(chosen.corpus, model.size)
    settings |= {"corpus_sha256": corpus_hash(corpus), "threads": threads, "members": num_members}
    run = Run(chosen.training["output_dir"], "pretrain-members", settings)
    if run.results is not None:
        return run.results
    if model.tokenizer is None:
        letters: Json = {"cased": model.cased, "keep_accents": model.keep_accents}
        options = {name: value for name, value in options.items() if name not in ("vocab_size", *letters)}
        options["tokenizer"] = str(run.folder / TOKENIZER)
        if not (run.folder / TOKENIZER).is_dir():
            length = config.max_position_embeddings
            trained = train_wordpiece(corpus["train"]["text"], config.vocab_size, length, **letters)
            with whole_folder(run.folder / TOKENIZER) as draft:
                trained.save_pretrained(draft)
    rows = _train(run, pretrain, [options] * num_members, workers, threads)
    results = {name: rows[0][name] for name in ("model", "corpus", "parameters", "steps", "text_facts")}
    results["held_out"] = {"loss": _spread([row["held_out"]["loss"] for row in rows])}
    results["members"] = [{name: row[name] for name in (*OF_EACH, "held_out")} for row in rows]
    return run.finish(None, results | {"workers": workers})


def finetune_members(*, workers: int | None = None, tasks: Sequence[str] = (), **options: Any) -> Json:
    """As `pretrain_members`: member k is what `finetune` of the k-th of `models` with `--seed SEED+k` gives.

    With `tasks` it is fine-tuned on the k-th of them, which have the same classes and test rows.
    """
    chosen = FinetuneOptions.read({**options, "workers": workers})
    models = chosen.classifier.models
    if chosen.classifier.model or not models:
        raise UserError("Fine-tuning members takes every encoder in --models, and no --model.")
    workers, threads = _check_members(options, len(models), workers)
    for model in models:
        load_matching_tokenizer(model, read_encoder_config(model)["vocab_size"])
    weights = [NEW if chosen.classifier.from_scratch else weights_hash(model) for model in models]
    splits = [load_task_from(replace(chosen.task, task=each)) for each in tasks[: len(models)] or [chosen.task.task]]
    task, hashes = splits[0], [task_hash(each) for each in splits]
    settings = chosen.settings() | {"task_sha256": hashes if tasks else hashes[0], "labels": class_names(task)}
    settings |= {"threads": threads, "weights": weights}
    run = Run(chosen.training["output_dir"], "finetune-members", settings)
    if run.results is not None:
        return run.results
    of_each = [{**options, "models": None, "model": model} for model in models]
    for member, name in zip(of_each, tasks, strict=False):  # a time budget may have left out members
        member["task"] = name
    rows = _train(run, finetune, of_each, workers, threads)
    scores = ("model", "parameters", "trainable_parameters", "validation", "test", "best_step")
    results = {name: rows[0][name] for name in ("task", "labels", "rows", "from_scratch", "schedule", "text_facts")}
    metric = HEADLINE[problem_of(task)]
    for split in ("validation", "test"):
        results[split] = {metric: _spread([row[split][metric] for row in rows])}
    results["members"] = [{name: row[name] for name in (*OF_EACH, *scores)} for row in rows]
    return run.finish(None, results | {"workers": workers})


def fit_to_budget(
    budget: str | None, started: float, folder: Path, rows: int, workers: int, options: Json
) -> Callable[[], str | None]:
    """Time a short trial; the function returned lowers `models` and `num_train_epochs` to what fits, and says so.

    It decides once: `folder` keeps its decision. What comes after the members is taken to last as long as what comes
    between trial and decision. `started` is the command's `time.perf_counter()`. UserError for too short a budget.
    """
    record, trial = folder / BUDGET_FILE, folder / TRIAL
    if budget is None:
        return lambda: None
    seconds, steps = parse_duration(budget), math.ceil(rows / BATCH_SIZE)
    asked = options["num_train_epochs"], len(options["models"])
    if not record.is_file():
        shutil.rmtree(trial, ignore_errors=True)
        begun = time.perf_counter()
        short = {"models": options["models"][:workers], "max_steps": TRIAL_STEPS, "output_dir": str(trial)}
        finetune_members(workers=workers, **options | short, disable_tqdm=True)
        speeds = [read_json(file)["speed"] for file in trial.glob(f"member-*/{RESULTS_FILE}")]
        step = max(speed["seconds"] / speed["steps"] for speed in speeds)
        apart = max(sum(speed["seconds_apart"].values()) for speed in speeds)
        shutil.rmtree(trial)
        tried = time.perf_counter()
        spent, around = tried - started, tried - begun - TRIAL_STEPS * step - apart
        one_pass = steps * step + apart / math.ceil(TRIAL_STEPS / steps)
        least = (0.1 * one_pass + around) / (1 - RESERVE)
        if seconds - spent < least:
            short_by = f"{spent:.0f} seconds have passed, and fine-tuning takes at least {least:.0f} more"
            remedy = f"give {math.ceil(1.2 * (spent + least))}s, or leave it out"
            raise UserError(f"--time-budget {budget} is too short: {short_by}; {remedy}.")

    def fit() -> str:
        if not record.is_file():
            now = time.perf_counter()
            left = seconds - (now - started) - (now - tried)
            members, passes = fit_members(left, around, one_pass, *asked, workers)
            write_json(record, {"members": members, "passes": passes})
        decided = read_json(record)
        members, passes = decided["members"], decided["passes"]
        options["models"], options["num_train_epochs"] = options["models"][:members], passes
        of_members = f"{members} of {asked[1]} members, {passes:g} of {asked[0]:g} passes"
        sentence = f"Time budget {budget}: {of_members} over the training rows."
        logger.info(sentence)
        return sentence

    return fit


def _check_members(options: Json, members: int, workers: int | None) -> tuple[int, int]:
    """Refuse what members cannot do; returns what `choose_workers` does."""
    if options.get("push_to_hub"):
        raise UserError("--push-to-hub pushes one model, not several members: leave it out, and push the committee.")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("Members share nothing, so one process trains them all: start without torchrun or accelerate.")
    check_range(SimpleNamespace(seed=options.get("seed", 0)), 0, LARGEST_SEED - members + 1, "seed")
    return choose_workers(options, members, workers)


def choose_workers(options: Json, members: int, workers: int | None) -> tuple[int, int]:
    """Members side by side (one for each GPU, or as many as a CPU has threads), and threads for each of them."""
    available, threads = torch.get_num_threads(), options.get("num_threads")
    if workers is None:
        on_cpu = stays_on_cpu(options.get("use_cpu", False))
        places = available // (threads or 1) if on_cpu else torch.cuda.device_count()
        workers = min(members, max(1, places))
    return workers, threads or max(1, available // workers)


def _train(run: Run, function: Callable[..., Json], options: Sequence[Json], workers: int, threads: int) -> list[Json]:
    """Train the members that are not finished; folder, seed and results of each."""
    jobs = []
    for index, each in enumerate(options):
        own = {"output_dir": str(run.folder / f"member-{index}"), "seed": each.get("seed", 0) + index}
        jobs.append(Job(f"member-{index}", function, {**each, **own, "num_threads": threads, "disable_tqdm": True}))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    devices = [] if options[0].get("use_cpu") else list(filter(None, visible.split(",")))
    show = not options[0].get("disable_tqdm")
    results = run_jobs(jobs, workers, "members", devices=devices, show=show)
    return [{"folder": job.name, "seed": job.arguments["seed"], **results[job.name]} for job in jobs]


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "lowest": min(values), "highest": max(values)}
