"""Several members of a committee trained at once, each a run of its own that another command could have done alone.

Every member trains in a child process without the variables of a distributed launch, on one device: so nothing is
synchronised between members, and with N processes (`torchrun --nproc_per_node N`, or `accelerate launch`) each process
trains its share of them, K members in ceil(K / N) rounds. A process that has a CPU trains several side by side.
"""

import contextlib
import datetime
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from ..data.corpora import corpus_hash
from ..data.tasks import class_names, load_task_from, task_hash
from ..data.tokenization import TextColumn, load_tokenizer, tokenizer_hash, train_wordpiece
from ..errors import UserError, check_range
from ..loading import load_matching_tokenizer, read_encoder_config, weights_hash
from ..runs.atomic_files import flush_tree
from ..runs.output_folder import RESULTS_FILE, Run
from ..runs.worker_pool import LOG_FILE, LOG_SECONDS, POLL_SECONDS, ask_to_stop, end_with_parent, read_progress, work
from .finetune import NEW, FinetuneArguments, decisive_options, finetune
from .finetune import check_arguments as check_finetuning
from .member_results import sum_up_losses, sum_up_scores
from .pretrain import load_pretraining_corpus, pretrain
from .pretrain_options import LARGEST_SEED, NOT_DECISIVE, PretrainArguments, choose_schedule
from .pretrain_options import check_arguments as check_pretraining
from .snapshots import check_not_missed

TOKENIZER = "tokenizer"
"""Folder of the members' tokenizer inside the output folder, where none was given."""
LAUNCHED = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
)
LAUNCHED_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_", "PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")
"""Variables by which torch, Accelerate and MPI tell a process that it is one of several."""
KEPT = "ACCELERATE_USE_CPU"
LONGEST_PREPARATION = datetime.timedelta(days=1)
Arguments = TypeVar("Arguments", PretrainArguments, FinetuneArguments)


@dataclass(frozen=True)
class Place:
    """This process among those of one launch."""

    rank: int
    world: int
    local_rank: int

    @classmethod
    def here(cls) -> "Place":
        """As torchrun and `accelerate launch` say; without them the only process."""
        rank, world, local_rank = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return cls(int(rank or 0), int(world or 1), int(local_rank or 0))


@dataclass(frozen=True)
class Plan:
    """What process 0 found out, for every process.

    Args:
        arguments: one per member, each with a folder of its own.
        expected: settings that a finished member must have, by name.
        workers: members side by side in each process.
        unfinished: numbers of the members to train; were each process to look for itself, a fast one could have
            finished some by then.
    """

    arguments: list[Any]
    expected: list[dict[str, Any]]
    workers: int
    unfinished: list[int] = field(default_factory=list)

    def rows(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """Folder, seed and results of these members as far as they are done."""
        rows = []
        for number in numbers:
            member = self.arguments[number]
            results = _finished(member, self.expected[number])
            if results is not None:
                rows.append({"folder": Path(member.output_dir).name, "seed": member.seed, **results})
        return rows


def pretrain_members(arguments: PretrainArguments, members: int, workers: int | None = None) -> dict[str, Any]:
    """Pre-train K independent members, or continue where an interrupted run stood.

    Member k lies in `OUTPUT/member-k` and is to the last bit what `pretrain` with `--seed SEED+k`, the tokenizer in
    `OUTPUT/tokenizer` (or the one given) and the same `--num-threads` gives: own weights, order and masks on the same
    texts.

    Args:
        arguments: the options; `seed` is that of member 0, `num_threads` the CPU threads of each member.
        members: K.
        workers: members side by side in each process; default: on a CPU as many as there are threads, else 1.

    Returns:
        The results as written to `OUTPUT/results.json`: `members` (folder, seed and held-out loss of each) and
        `held_out`, mean, lowest and highest loss in nats per masked token. In a launch of several processes those
        other than the first return only the members that they trained.

    Raises:
        UserError: bad input, an output folder that belongs to another run, or what the training of a member raises.
        KeyboardInterrupt: interrupted, after every member in training has saved a checkpoint.
    """
    return _train_all(arguments, pretrain, lambda: _prepare_pretraining(arguments, members, workers), sum_up_losses)


def finetune_members(arguments: FinetuneArguments, workers: int | None = None) -> dict[str, Any]:
    """Fine-tune a classifier from each of `arguments.models` on one task, or continue.

    Member k lies in `OUTPUT/member-k` and is to the last bit what `finetune` of the k-th model with `--seed SEED+k` and
    the same `--num-threads` gives. All have the same rows for training, validation and test.

    Args:
        arguments: the options; `seed` is that of member 0, `num_threads` the CPU threads of each member.
        workers: members side by side in each process; default: `arguments.workers`, or on a CPU as many as there are
            threads and else 1.

    Returns:
        The results as written to `OUTPUT/results.json`: `members` (folder, seed, validation and test scores of each)
        and the mean, lowest and highest accuracy on `validation` and `test`. Nothing is chosen by them.

    Raises:
        UserError: bad input, an output folder that belongs to another run, or what the training of a member raises.
        KeyboardInterrupt: interrupted, after every member in training has saved a checkpoint.
    """
    workers = workers or arguments.workers
    return _train_all(arguments, finetune, lambda: _prepare_finetuning(arguments, workers), sum_up_scores)


def _prepare_pretraining(arguments: PretrainArguments, members: int, workers: int | None) -> tuple[Run, Plan]:
    """Load the corpus once, take the output folder and put the shared tokenizer there."""
    schedule = choose_schedule(arguments)
    config = check_pretraining(arguments, schedule)
    _check_counts(arguments, members, workers, "--members")
    workers, threads = _share_out(arguments, members, workers)
    tokenizer = None
    if arguments.tokenizer is not None:
        tokenizer = load_tokenizer(arguments.tokenizer, config.max_position_embeddings)
    corpus = load_pretraining_corpus(arguments)
    shared = {"corpus_sha256": corpus_hash(corpus), "threads": threads}
    given = {} if tokenizer is None else {"tokenizer_sha256": tokenizer_hash(tokenizer)}
    chosen = asdict(arguments).items()
    settings = {key: value for key, value in chosen if key not in NOT_DECISIVE and value is not None}
    run = Run(arguments.output_dir, "pretrain-members", settings | shared | given | {"members": members})
    folder = run.folder / TOKENIZER
    if tokenizer is None and not folder.is_dir():
        try:
            trained = train_wordpiece(TextColumn(corpus["train"]), config.vocab_size, config.max_position_embeddings)
        except UserError:
            run.discard()
            raise
        partial = folder.with_name(f".{TOKENIZER}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        trained.save_pretrained(partial)
        flush_tree(partial)
        partial.rename(folder)
    if tokenizer is None:
        tokenizer = load_tokenizer(str(folder), config.max_position_embeddings)
    shared |= {"tokenizer_sha256": tokenizer_hash(tokenizer)}
    arguments = replace(arguments, tokenizer=arguments.tokenizer or str(folder), num_threads=threads)
    plans = [_as_member(arguments, run, index) for index in range(members)]
    for plan in plans:
        if (Path(plan.output_dir) / RESULTS_FILE).is_file():
            check_not_missed(Path(plan.output_dir), plan.snapshot_steps)
    return run, Plan(plans, [{**shared, "seed": plan.seed} for plan in plans], workers)


def _prepare_finetuning(arguments: FinetuneArguments, workers: int | None) -> tuple[Run, Plan]:
    """Open every encoder's folder and the task once, and take the output folder."""
    if arguments.model:
        raise UserError("--model and --models exclude each other: name every encoder in --models.")
    if not arguments.models or not arguments.output_dir:
        raise UserError("Fine-tuning members needs --models (pre-trained encoders) and --output-dir.")
    checked = check_finetuning(arguments)
    members = len(arguments.models)
    _check_counts(arguments, members, workers, "--models")
    workers, threads = _share_out(arguments, members, workers)
    for model in arguments.models:
        load_matching_tokenizer(model, None, read_encoder_config(model)["vocab_size"])
    weights = [NEW if arguments.from_scratch else weights_hash(model) for model in arguments.models]
    task = load_task_from(arguments)
    shared = {"task_sha256": task_hash(task), "threads": threads}
    names = {"labels": class_names(task), "weights": weights}
    run = Run(arguments.output_dir, "finetune-members", decisive_options(checked) | shared | names)
    models = enumerate(arguments.models)
    arguments = replace(arguments, models=[], num_threads=threads)
    plans = [_as_member(replace(arguments, model=model), run, index) for index, model in models]
    expected = [{**shared, "seed": plan.seed, "weights": hash_} for plan, hash_ in zip(plans, weights, strict=True)]
    return run, Plan(plans, expected, workers)


def _as_member(arguments: Arguments, run: Run, index: int) -> Arguments:
    """Options of member number `index`: own folder, own seed."""
    folder = str(run.folder / f"member-{index}")
    return replace(arguments, output_dir=folder, seed=arguments.seed + index, disable_tqdm=True)


def _check_counts(arguments: Arguments, members: int, workers: int | None, option: str) -> None:
    """Refuse impossible numbers of members and workers."""
    for name, value in ((option, members), ("--workers", workers)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}: give at least 1.")
    check_range(arguments, 0, LARGEST_SEED - members + 1, "seed")


def _share_out(arguments: Arguments, members: int, workers: int | None) -> tuple[int, int]:
    """Members side by side in each process, and CPU threads for each of them.

    Small models leave most of a second thread idle, so on a CPU one thread for each of several members comes first.
    """
    budget = torch.get_num_threads()
    if workers is None:
        on_cpu = arguments.use_cpu or KEPT in os.environ or not torch.accelerator.is_available()
        rounds = math.ceil(members / Place.here().world)
        workers = min(rounds, max(1, budget // (arguments.num_threads or 1))) if on_cpu else 1
    return workers, arguments.num_threads or max(1, budget // workers)


def _train_all(
    arguments: Arguments,
    function: Callable[[Arguments], dict[str, Any]],
    prepare: Callable[[], tuple[Run, Plan]],
    sum_up: Callable[[list[dict[str, Any]]], dict[str, Any]],
) -> dict[str, Any]:
    """Prepare in process 0, train this process's members, and finish the run in process 0."""
    place = Place.here()
    run = plan = None
    error: Exception | None = None
    if place.rank == 0:
        try:
            run, plan = prepare()
            pairs = enumerate(zip(plan.arguments, plan.expected, strict=True))
            plan.unfinished.extend(number for number, pair in pairs if _finished(*pair) is None)
        except UserError as refused:
            error = refused
    plan, error = _from_first(place, (plan, error))
    if error is not None:
        raise error
    assert plan is not None
    if run is not None and run.results is not None:
        return run.results
    mine = plan.unfinished[place.rank :: place.world]
    _train_mine(place, function, mine, plan, show=place.rank == 0 and not arguments.disable_tqdm)
    if run is None:
        return sum_up(plan.rows(mine)) if mine else {}
    results = sum_up(plan.rows(range(len(plan.arguments))))
    return run.finish(None, results | {"workers": plan.workers, "processes": place.world})


def _from_first(place: Place, value: Any) -> Any:
    """What process 0 holds, in every process. The group of processes ends here: members need none."""
    if place.world == 1:
        return value
    torch.distributed.init_process_group("gloo", timeout=LONGEST_PREPARATION)
    box = [value]
    torch.distributed.broadcast_object_list(box)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return box[0]


def _finished(member: Any, expected: dict[str, Any]) -> dict[str, Any] | None:
    """Results of a member that is done, or None.

    Raises:
        UserError: it has other settings than `expected`, so it came from elsewhere.
    """
    try:
        results = json.loads((Path(member.output_dir) / RESULTS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    for name, value in expected.items():
        if results["settings"].get(name) != value:
            raise UserError(
                f"The folder {member.output_dir} holds another run ({name} is {results['settings'].get(name)!r} there "
                f"and {value!r} here): delete that folder."
            )
    return results


def _share_done(member: Any) -> float:
    """Share of a member's steps that is done."""
    folder = Path(member.output_dir)
    return 1.0 if (folder / RESULTS_FILE).is_file() else min(0.999, read_progress(folder))


@contextlib.contextmanager
def _environment_of_children(place: Place, threads: int, *, use_cpu: bool) -> Iterator[None]:
    """Variables for processes that train alone: none of a launch, and one device."""
    before = dict(os.environ)
    for name in before:
        if name in LAUNCHED or (name.startswith(LAUNCHED_PREFIXES) and name != KEPT):
            del os.environ[name]
    os.environ |= {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    if not use_cpu and (devices := torch.cuda.device_count()):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(devices)))
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[place.local_rank % devices]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _train_mine(
    place: Place, function: Callable[[Any], dict[str, Any]], mine: Sequence[int], plan: Plan, *, show: bool
) -> None:
    """Train members in child processes; process 0 shows the progress of all and waits for all."""
    members, waiting = plan.arguments, [plan.arguments[number] for number in mine]
    flying: dict[Future, Any] = {}
    layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} elapsed, {remaining} left, {rate_inv_fmt}{postfix}"
    bar = tqdm(
        total=len(members),
        initial=sum(map(_share_done, members)),
        desc=f"{len(members)} members",
        unit="member",
        bar_format=layout,
        file=sys.stderr,
        disable=not show,
    )
    first = members[0]
    with (
        bar,
        _environment_of_children(place, first.num_threads, use_cpu=first.use_cpu),
        ProcessPoolExecutor(plan.workers, get_context("spawn"), initializer=end_with_parent) as pool,
    ):
        next_line = 0.0
        try:
            while waiting or flying or (place.rank == 0 and any(_share_done(member) < 1 for member in members)):
                while waiting and len(flying) < plan.workers:
                    member = waiting.pop(0)
                    flying[pool.submit(work, function, member)] = member
                if flying:
                    done, _ = wait(flying, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                else:  # members of other processes
                    done = set()
                    time.sleep(POLL_SECONDS)
                for future in done:
                    _check_end(flying.pop(future), future)
                bar.n = sum(map(_share_done, members))
                names = (Path(member.output_dir).name for member in flying.values())
                bar.set_postfix_str(", ".join(names), refresh=False)
                if time.monotonic() >= next_line:  # in a log file every line stays, so there are fewer of them
                    bar.refresh()
                    next_line = time.monotonic() + (POLL_SECONDS if sys.stderr.isatty() else LOG_SECONDS)
        except KeyboardInterrupt:
            ask_to_stop(pool)
            sys.stderr.write("\nInterrupted: every member in training saves a checkpoint ...\n")
            raise


def _check_end(member: Any, future: Future) -> None:
    """Raise what a member's training raised, with its folder named."""
    folder = Path(member.output_dir)
    try:
        future.result()
    except UserError as error:
        raise UserError(f"{folder.name}: {error}") from error
    except BrokenProcessPool:
        raise UserError(
            f"The process that trained {folder.name} was killed, perhaps for want of memory ({folder / LOG_FILE} holds "
            "what it said): the same command continues; --workers 1 needs the least memory."
        ) from None
