"""Options by name, of commands and functions alike: the fields of a few dataclasses, the last one TrainingArguments."""

import difflib
import logging
import math
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from ..errors import UserError, check_range, flag, refusing
from ..option_fields import option
from ..runs.output_folder import is_main_process
from ..runs.provenance import portable_path

logger = logging.getLogger(__name__)
PRECISIONS = ("auto", "true", "false")
LARGEST_SEED = 2**32 - 1  # what numpy's seeding accepts
LARGEST_NUMBER = 10**9  # of epochs and steps
NOT_GIVEN = -1  # `max_steps` where the epochs count
REASONS = {
    "the order of the texts is a function of --seed and the step, so that a run can continue exactly":
        "ignore_data_skip train_sampling_strategy length_column_name data_seed dataloader_drop_last accelerator_config "
        "parallelism_config",
    "checkpoints hold all that an exact continuation needs, and the last two and the best one are kept":
        "save_only_model save_total_limit save_on_each_node enable_jit_checkpoint deepspeed "
        "restore_callback_states_from_checkpoint",
    "it is for scripts that choose what to do": "do_train do_eval do_predict local_rank",
    "scores are those of the saved float32 weights": "fp16_full_eval bf16_full_eval",
    "the finished folder is pushed, once": "hub_strategy hub_always_push",
    "the same command with the same --output-dir continues by itself": "resume_from_checkpoint",
    "pre-training ends with its last weights, fine-tuning with those of the best epoch": "load_best_model_at_end",
    "pre-training evaluates and saves every so many steps, fine-tuning after each epoch": "eval_strategy save_strategy "
        "eval_on_start eval_delay",
    "the batch size decides the weights": "auto_find_batch_size",
    "the collator needs its columns and labels": "remove_unused_columns label_names",
    "float16 needs loss scaling, which is not tested: take --bf16": "fp16",
}  # fmt: skip
REFUSED = {name: reason for reason, names in REASONS.items() for name in names.split()}  # of TrainingArguments
NOT_DECISIVE = (
    "output_dir", "report_to", "run_name", "project", "disable_tqdm", "save_steps", "push_to_hub", "ddp_timeout",
    "skip_memory_metrics", "debug", "num_threads", "workers", "data_root",
)  # fmt: skip
NOR_THESE = ("hub_", "log", "trackio_", "dataloader_")  # beginnings of more options that leave the weights as they are
RANGES = {
    name: (lowest, highest)
    for lowest, highest, names in (
        (1, math.inf, "batch_size per_device_train_batch_size gradient_accumulation_steps num_texts validation_texts"),
        (1, math.inf, "logging_steps save_steps eval_steps num_members workers num_threads patience lora_rank"),
        (3, math.inf, "max_length"),
        (6, math.inf, "vocab_size"),  # five special tokens and one other
        (0, 1, "dropout"),
        (0, math.nextafter(1, 0), "adam_beta1 adam_beta2 token_dropout"),
        (0, LARGEST_NUMBER, "num_train_epochs learning_rate weight_decay max_grad_norm warmup_steps initializer_range"),
        (0, LARGEST_SEED, "seed subset_seed"),
    )
    for name in names.split()
}
EXCLUSIVE = {"batch_size": ["per_device_train_batch_size"], "time_budget": ["max_steps", "num_train_epochs"]}


@dataclass
class OurArguments(TrainingArguments):
    """TrainingArguments with the defaults that pre-training and fine-tuning share."""

    _argument_group_name = "all of transformers.TrainingArguments"
    output_dir: str = option("", "Output folder; with the same one the run continues.", group="output")
    seed: int = option(0, "Seed of new weights, order, masks and dropout.", group="schedule")
    bf16: str = option("auto", "bfloat16: true, false, or auto.", group="schedule", nargs="?", const="true")
    logging_steps: float = option(50, "Steps between log lines.", group="output")
    report_to: str = option("none", "tensorboard, trackio, wandb, ...", group="output", nargs="+")
    disable_tqdm: bool = option(False, "No progress bar (for logs).", group="output")
    use_cpu: bool = option(False, "Stay on the CPU even where there is a GPU.")
    logging_nan_inf_filter: bool = option(False, "Hide NaN and infinite losses in logs.")

    def __post_init__(self) -> None:
        self.bf16 = choose_precision(self.bf16, self.use_cpu)  # type: ignore[assignment]
        self.use_cpu = stays_on_cpu(self.use_cpu)
        if not torch.cuda.is_available():
            self.dataloader_pin_memory = False
        super().__post_init__()


def suggest(word: str, names: Sequence[str]) -> str:
    """`: did you mean --this?` for a mistyped option, or nothing."""
    close = difflib.get_close_matches(flag(word.strip("-")), [flag(name) for name in names], 1)
    return f": did you mean {close[0]}?" if close else ""


def refuse(given: Container[str], names: Iterable[str], reason: str) -> None:
    """Raise UserError for the first of the names that was given."""
    for name in names:
        if name in given:
            raise UserError(f"{flag(name)} is refused ({reason}): leave it out.")


def check_names(given: Mapping[str, Any], groups: Sequence[type]) -> dict[str, Any]:
    """Options that are not None, by their first names; UserError for one that is unknown, refused or out of range."""
    known, named = {entry.name: entry for group in groups for entry in fields(group) if entry.init}, {}
    names = {alias[2:]: name for name, entry in known.items() for alias in entry.metadata.get("aliases", ())}
    for word, value in given.items():
        name = names.get(word, word)
        if name not in known:
            raise UserError(f"There is no option {word!r}{suggest(word, list(known)) or '.'}")
        if name in named:
            raise UserError(f"{name!r} is given twice, once as {word!r}: leave one of them out.")
        if value is not None:
            named[name] = value
    for name, value in named.items():
        refuse({name} & REFUSED.keys(), [name], REFUSED.get(name, ""))
        refuse(named, EXCLUSIVE.get(name, ()), f"{flag(name)} sets the same")
        if name in RANGES:
            check_range(SimpleNamespace(**named), *RANGES[name], name)
        choices = known[name].metadata.get("choices")
        if choices and value not in choices:
            raise UserError(f"{flag(name)} is {value!r}: choose {' or '.join(choices)}.")
    return named


def sort_options(options: Mapping[str, Any], groups: Sequence[type]) -> list[Any]:
    """Each group with its own options, but of the last one, Trainer's arguments, just the options, checked."""
    own = [{each.name: options[each.name] for each in fields(group) if each.name in options} for group in groups]
    names = ("output_dir", "bf16", "use_cpu", "max_steps", "num_train_epochs", "report_to")
    values = SimpleNamespace(**{name: own[-1].get(name, getattr(groups[-1], name)) for name in names})
    if not values.output_dir:
        raise UserError("There is no output folder: give --output-dir.")
    choose_precision(values.bf16, values.use_cpu)
    if values.max_steps != NOT_GIVEN:
        check_range(values, 1, LARGEST_NUMBER, "max_steps")
    elif values.num_train_epochs == 0:
        raise UserError("Nothing to train: give --num-train-epochs or --max-steps above 0.")
    for name in values.report_to.split() if isinstance(values.report_to, str) else values.report_to:
        if name not in ("none", "all") and name not in get_available_reporting_integrations():
            raise UserError(f"--report-to {name} needs the package {name}: pip install {name}, or choose none.")
    return [*(group(**each) for group, each in zip(groups[:-1], own, strict=False)), own[-1]]


def build_arguments(arguments_class: type[OurArguments], values: Mapping[str, Any], batch_size: int | None) -> Any:
    """Trainer's options, with `batch_size` rows of a step split over processes, devices and accumulated passes."""
    with refusing("The options do not work together", "change one", ValueError, ImportError, NotImplementedError):
        arguments = arguments_class(**{**values, "push_to_hub": False})  # `prepare_push` does it at the end
    if batch_size is not None:
        parts = arguments.world_size * max(1, arguments.n_gpu) * arguments.gradient_accumulation_steps
        if batch_size % parts:
            words = f"--batch-size {batch_size} cannot be split over {parts} parts (processes x accumulation steps)"
            raise UserError(f"{words}: choose a multiple of {parts}.")
        arguments.per_device_train_batch_size = batch_size // parts
    return arguments


def rows_per_step(arguments: TrainingArguments) -> int:
    """Rows of an optimizer step over all processes, devices and accumulated passes."""
    return arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps


def check_length(length: int | None, model: str, limit: int) -> None:
    """Raise UserError for a `--max-length` beyond what the encoder reads."""
    if (length or 0) > limit:
        words = f"--max-length is {length}, and {model} reads at most {limit} tokens"
        raise UserError(f"{words}: give at most that, or leave it out.")


def source_name(source: Any) -> str:
    """What results call a corpus or task: its path or name, or what kind of object it is."""
    is_name = isinstance(source, str | os.PathLike)
    return portable_path(str(source)) if is_name else f"a {type(source).__name__} in memory"


def record(
    groups: Iterable[object], arguments_class: type, training: Any, always: Iterable[str], left_out: Iterable[str]
) -> dict[str, Any]:
    """The options that decide the weights, as a run records them; Trainer's where they were given, or in `always`."""
    options = {name: value for group in groups for name, value in vars(group).items()}
    options |= {name: getattr(arguments_class, name) for name in (*always, "seed", "bf16", "use_cpu")} | dict(training)
    options["bf16"] = choose_precision(options["bf16"], options["use_cpu"])
    decisive = [name for name in options if name not in (*NOT_DECISIVE, *left_out) and not name.startswith(NOR_THESE)]
    return {name: options[name] for name in decisive if options[name] is not None}


def stays_on_cpu(use_cpu: bool) -> bool:
    """Trainer's `use_cpu`: asked for, or no accelerator (else every process of torchrun would train alone)."""
    return use_cpu or not torch.accelerator.is_available()


def report_processes(arguments: TrainingArguments) -> None:
    """Say once how many processes there are and on what; UserError for ones without a shared process group."""
    processes, device, threads = arguments.world_size, arguments.device.type, torch.get_num_threads()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > processes:
        words = f"The launcher started {started} processes, each of which would train by itself"
        raise UserError(f"{words}: add --use-cpu to train on CPUs together, or start one process for each GPU.")
    if is_main_process():
        backend = f" ({torch.distributed.get_backend()})" if processes > 1 else ""
        together = f"Training in {processes} process{'es' * (processes > 1)}{backend} on {device}"
        precision = "bfloat16" if arguments.bf16 else "float32"
        logger.info(f"{together}, {threads} CPU thread{'s' * (threads > 1)} each, {precision}.")
        if arguments.n_gpu > 1:
            logger.warning(f"One process feeds {arguments.n_gpu} GPUs, which is slow: start with `accelerate launch`.")


def has_fast_bf16(use_cpu: bool = False) -> bool:
    """Whether the device that Trainer would take multiplies bfloat16 in hardware, not slowly by emulation."""
    if not use_cpu and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not stays_on_cpu(use_cpu):
        return torch.xpu.is_available() and bool(torch.xpu.is_bf16_supported())
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def choose_precision(asked: str | bool = "auto", use_cpu: bool = False) -> bool:
    """Whether to train under bfloat16: `--bf16`, where `auto` asks launcher and hardware; UserError if they differ."""
    word = str(asked).lower()
    if word not in PRECISIONS:
        raise UserError(f"--bf16 is {asked!r}: choose {', '.join(PRECISIONS)}.")
    # Trainer follows this variable even where its own `bf16` is False.
    launcher = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launcher not in ("no", "bf16"):
        raise UserError(f"accelerate launch was asked for mixed precision {launcher!r}: choose no or bf16.")
    if word == "false" and launcher == "bf16":
        raise UserError("accelerate launch was asked for bf16 and --bf16 is false: leave one of them out.")
    return word == "true" or launcher == "bf16" or (word == "auto" and has_fast_bf16(use_cpu))
