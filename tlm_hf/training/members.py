"""Several members of a committee trained at once, each a run that another command could have done alone.

Every member trains in a child process without the variables of a distributed launch, on one device: so nothing is
synchronised between members, and with N processes (`torchrun --nproc_per_node N`, or `accelerate launch`) each process
trains its share of them. A process that has a CPU trains several side by side.
"""

import datetime
import math
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import torch

from ..data.corpora import corpus_hash
from ..data.tasks import class_names, load_task_from, task_hash
from ..data.tokenization import TextColumn, load_tokenizer, tokenizer_hash, train_wordpiece
from ..errors import UserError, check_range
from ..loading import load_matching_tokenizer, read_encoder_config, weights_hash
from ..models.configuration_tlm import TLMConfig
from ..runs.atomic_files import Json, flush_tree, read_json
from ..runs.output_folder import RESULTS_FILE, Run
from ..runs.worker_pool import POLL_SECONDS, USE_CPU, Job, run_jobs
from .finetune import NEW, finetune
from .finetune_options import FinetuneOptions
from .options import LARGEST_SEED
from .pretrain import load_pretraining_corpus, pretrain
from .pretrain_options import PretrainOptions
from .snapshots import check_not_missed

TOKENIZER = "tokenizer"
"""Folder of the members' tokenizer inside the output folder, where none was given."""
LONGEST_PREPARATION = datetime.timedelta(days=1)
OF_EACH = ("folder", "seed", "steps", "seconds_since_start_or_continuation")


def device_variables(use_cpu: bool) -> dict[str, str]:
    """The one CUDA device that this process's members train on; processes share devices when there are fewer."""
    devices = 0 if use_cpu else torch.cuda.device_count()
    if not devices:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(devices)))
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[int(os.environ.get("LOCAL_RANK", 0)) % devices]}


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def pretrain_members(*, num_members: int, workers: int | None = None, **options: Any) -> Json:
    """Pre-train K independent members, or continue an interrupted run.

    Member k, in `OUTPUT/member-k`, is to the last bit what `pretrain` with `--seed SEED+k`, the tokenizer in
    `OUTPUT/tokenizer` (or the one given) and the same `--num-threads` gives.

    Args:
        num_members: K.
        workers: members side by side in each process; default: on a CPU as many as there are threads, else 1.
        **options: those of `pretrain`; `seed` is that of member 0, `num_threads` that of each member.

    Returns:
        The results as written (`sum_up_losses`). In a launch of several processes those other than the first return
        only the members that they trained.

    Raises:
        UserError: bad input, an output folder that belongs to another run, or what the training of a member raises.
        KeyboardInterrupt: interrupted, after every member in training has saved a checkpoint.
    """
    return _train_members(options, pretrain, lambda: _prepare_pretraining(options, num_members, workers), sum_up_losses)


def finetune_members(*, workers: int | None = None, **options: Any) -> Json:
    """Fine-tune a classifier from each of `models` on one task, or continue.

    Member k, in `OUTPUT/member-k`, is to the last bit what `finetune` of the k-th model with `--seed SEED+k` and the
    same `--num-threads` gives.

    Args:
        workers: as of `pretrain_members`.
        **options: those of `finetune`; `seed` and `num_threads` as of `pretrain_members`.

    Returns:
        The results as written (`sum_up_scores`). Nothing is chosen by them.

    Raises:
        UserError, KeyboardInterrupt: as `pretrain_members`.
    """
    return _train_members(options, finetune, lambda: _prepare_finetuning(options, workers), sum_up_scores)


def _train_members(
    options: Json,
    function: Callable[..., Json],
    prepare: Callable[[], tuple[Run, list[Json], int]],
    sum_up: Callable[[list[Json]], Json],
) -> Json:
    # 1. The first process loads the data and takes the output folder; the members, or its refusal, go to all.
    rank, world = int(os.environ.get("RANK", 0)), _world_size()
    run: Run | None = None
    shared: Any = None
    if rank == 0:
        try:
            run, *shared = prepare()
        except UserError as refused:
            shared = refused
    shared = _from_first_process(world, shared)
    if isinstance(shared, UserError):
        raise shared
    if run is not None and run.results is not None:
        return run.results

    # 2. Every process trains its share, in children; a finished member returns at once.
    members, workers = shared
    share = members[rank::world]
    device = device_variables(bool(options.get("use_cpu")))
    run_jobs(
        [Job(Path(member["output_dir"]).name, function, member) for member in share],
        workers,
        f"{len(share)} members",
        environment={"OMP_NUM_THREADS": str(members[0]["num_threads"]), **device},
        show=rank == 0 and not options.get("disable_tqdm"),
    )

    # 3. The first process waits for the others' members and writes the results.
    if run is None:
        return sum_up(_read_results(share)) if share else {}
    while not all((Path(member["output_dir"]) / RESULTS_FILE).is_file() for member in members):
        time.sleep(POLL_SECONDS)
    return run.finish(None, sum_up(_read_results(members)) | {"workers": workers, "processes": world})


def _read_results(members: Sequence[Json]) -> list[Json]:
    """Folder, seed and results of each member."""
    rows = []
    for member in members:
        folder = Path(member["output_dir"])
        rows.append({"folder": folder.name, "seed": member["seed"], **read_json(folder / RESULTS_FILE)})
    return rows


def _from_first_process(world: int, value: Any) -> Any:
    """What process 0 holds, in every process. The group of processes ends here: members need none."""
    if world == 1:
        return value
    torch.distributed.init_process_group("gloo", timeout=LONGEST_PREPARATION)
    values = [value]
    torch.distributed.broadcast_object_list(values)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return values[0]


def _prepare_pretraining(options: Json, members: int, workers: int | None) -> tuple[Run, list[Json], int]:
    """Load the corpus once, take the output folder and put the shared tokenizer there."""
    chosen = PretrainOptions.read({**options, "num_members": members, "workers": workers})
    _refuse_push(options)
    config, settings = chosen.config(), chosen.settings()
    _check_seed(options, members)
    workers, threads = choose_workers(options, members, workers)
    if chosen.model.tokenizer is not None:
        tokenizer = load_tokenizer(chosen.model.tokenizer, config.max_position_embeddings)
        settings["tokenizer_sha256"] = tokenizer_hash(tokenizer)
    corpus = load_pretraining_corpus(chosen.corpus, chosen.model.size)
    settings |= {"corpus_sha256": corpus_hash(corpus), "threads": threads, "members": members}
    run = Run(options["output_dir"], "pretrain-members", settings)
    options = {**options, "num_threads": threads}
    if chosen.model.tokenizer is None:
        options["tokenizer"] = _train_tokenizer(run, corpus["train"], config)
    for finished in run.folder.glob(f"member-*/{RESULTS_FILE}"):
        check_not_missed(finished.parent, chosen.output.snapshot_steps)
    return run, [_as_member(options, run, index) for index in range(members)], workers


def _train_tokenizer(run: Run, rows: datasets.Dataset, config: TLMConfig) -> str:
    """Train the members' tokenizer and rename it into place, unless that was done before."""
    folder = run.folder / TOKENIZER
    if not folder.is_dir():
        try:
            tokenizer = train_wordpiece(TextColumn(rows), config.vocab_size, config.max_position_embeddings)
        except UserError:
            run.discard()
            raise
        partial = folder.with_name(f".{TOKENIZER}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        tokenizer.save_pretrained(partial)
        flush_tree(partial)
        partial.rename(folder)
    return str(folder)


def _prepare_finetuning(options: Json, workers: int | None) -> tuple[Run, list[Json], int]:
    """Open every encoder's folder and the task once, and take the output folder."""
    models: list[str] = options.get("models") or []
    if options.get("model"):
        raise UserError("--model and --models exclude each other: name every encoder in --models.")
    if not models or not options.get("output_dir"):
        raise UserError("Fine-tuning members needs --models (pre-trained encoders) and --output-dir.")
    _refuse_push(options)
    chosen = FinetuneOptions.read({**options, "workers": workers})
    _check_seed(options, len(models))
    workers, threads = choose_workers(options, len(models), workers)
    for model in models:
        load_matching_tokenizer(model, None, read_encoder_config(model)["vocab_size"])
    weights = [NEW if chosen.classifier.from_scratch else weights_hash(model) for model in models]
    task = load_task_from(chosen.task)
    settings = chosen.settings() | {"task_sha256": task_hash(task), "labels": class_names(task)}
    run = Run(options["output_dir"], "finetune-members", settings | {"threads": threads, "weights": weights})
    options = {**options, "models": [], "num_threads": threads}
    members = [_as_member({**options, "model": model}, run, index) for index, model in enumerate(models)]
    return run, members, workers


def _refuse_push(options: Json) -> None:
    if options.get("push_to_hub"):
        raise UserError("--push-to-hub pushes one model, not several members: leave it out, and push the committee.")


def _as_member(options: Json, run: Run, index: int) -> Json:
    """Options of member number `index`: its folder and its seed."""
    folder = str(run.folder / f"member-{index}")
    return {**options, "output_dir": folder, "seed": options.get("seed", 0) + index, "disable_tqdm": True}


def _check_seed(options: Json, members: int) -> None:
    check_range(SimpleNamespace(seed=options.get("seed", 0)), 0, LARGEST_SEED - members + 1, "seed")


def choose_workers(options: Json, members: int, workers: int | None) -> tuple[int, int]:
    """Members side by side in each process (on a CPU as many as it has threads), and threads for each of them."""
    available, threads = torch.get_num_threads(), options.get("num_threads")
    if workers is None:
        on_cpu = options.get("use_cpu") or USE_CPU in os.environ or not torch.accelerator.is_available()
        rounds = math.ceil(members / _world_size())
        workers = min(rounds, max(1, available // (threads or 1))) if on_cpu else 1
    return workers, threads or max(1, available // workers)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "lowest": min(values), "highest": max(values)}


def sum_up_losses(rows: list[Json]) -> Json:
    """What members share, each one's held-out loss, and mean, lowest and highest (nats per masked token)."""
    return {
        **{name: rows[0][name] for name in ("model", "corpus", "parameters", "steps")},
        "held_out": {"loss": _spread([row["held_out"]["loss"] for row in rows])},
        "members": [{name: row[name] for name in (*OF_EACH, "held_out")} for row in rows],
    }


def sum_up_scores(rows: list[Json]) -> Json:
    """What members share, each one's scores, and mean, lowest and highest accuracy of both splits."""
    scores = ("model", "parameters", "trainable_parameters", "validation", "test", "best_step")
    return {
        **{name: rows[0][name] for name in ("task", "labels", "rows", "from_scratch", "schedule")},
        **{split: {"accuracy": _spread([row[split]["accuracy"] for row in rows])} for split in ("validation", "test")},
        "members": [{name: row[name] for name in (*OF_EACH, *scores)} for row in rows],
    }
