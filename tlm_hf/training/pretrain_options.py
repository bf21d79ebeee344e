"""Options of pre-training: what there is, what is refused, and what a run records of it."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import psutil
import torch

from ..data.task_options import TextFormat
from ..data.tokenization import LONGEST_DEFAULT, SHORT
from ..errors import UserError, check_range, flag
from ..models.configuration_tlm import TLMConfig
from ..option_fields import option
from ..recipes import ARCHITECTURES, PRETRAINING_SCHEDULES, SIZES, Schedule, build_config
from ..runs.atomic_files import Json
from .options import REFUSED as REFUSED
from .options import OurArguments, build_arguments, check_names, choose_precision, record, refuse, sort_options
from .time_budget import parse_duration

BATCH_SIZE = 32
CONTINUED_RATE = 1e-4  # at the peak, where `--model` continues an encoder, whatever the schedule's for new weights


@dataclass
class CorpusOptions(TextFormat):
    _argument_group_name = "data"
    corpus: str = option("wikipedia", "docstrings, wikipedia, a file, folder or Hub data set.", alias="dataset_name")
    text_column: str = option("text", "Column that holds the text.")
    num_texts: int | None = option(None, "Texts to train on (default: all; of Wikipedia as --size says).")
    validation_texts: int = option(1000, "Texts held out for the fixed-mask loss.")
    subset_seed: int = option(0, "Seed of the choice of texts.")
    corpus_config: str | None = option(None, "Configuration of a Hub data set.")
    corpus_revision: str | None = option(None, "Revision of a Hub data set.")
    text_unit: str | None = option(None, "A text; default: as blank lines say.", choices=["paragraph", "line"])
    text_windows: str = option("all", "all: long texts split, short joined; first: starts.", choices=["all", "first"])
    data_root: str | None = option(None, "Folder of real text; default: $TLM_DATA.")


@dataclass
class ModelOptions:
    _argument_group_name = "model"
    recipe: str = option("bert-1", "python -m tlm_hf.recipes shows them.", choices=list(ARCHITECTURES))
    size: str = option("laptop", "Width, vocabulary and lengths.", choices=list(SIZES))
    model: str | None = option(None, "Encoder to continue: folder or Hub name of a BERT.", alias="model_name_or_path")
    hidden_size: int | None = option(None, "Width, in place of the size's.")
    num_hidden_layers: int | None = option(None, "Layers, in place of the recipe's.")
    num_attention_heads: int | None = option(None, "Heads, in place of hidden size / 64.")
    max_length: int | None = option(None, "Tokens per text, in place of the size's.", alias="max_seq_length")
    vocab_size: int | None = option(None, "WordPiece vocabulary to train.")
    tokenizer: str | None = option(None, "vocab.txt, folder or Hub name; default: WordPiece trained on the corpus.")
    cased: bool = option(False, "The tokenizer that is trained keeps capital letters.")
    keep_accents: bool | None = option(None, "Keep accents and vowel signs; default: unless English-like.")
    dropout: float | None = option(None, "Hidden and attention dropout; default: the schedule's.")
    initializer_range: float | None = option(None, "Default: 1/sqrt(hidden size) for one narrow layer, else 0.02.")
    unigram_bias: bool | None = option(None, "Decoder bias from the tokens' log frequencies; default: the schedule's.")
    initialization: str | None = option(None, "Word rows; default: the schedule's.", choices=["counts", "random"])
    neighbour_heads: bool | None = option(None, "Heads start by attending to neighbours; default: the schedule's.")


@dataclass
class ScheduleOptions:
    _argument_group_name = "schedule"
    schedule: str = option("tlm", "Ours, the authors', or theirs repaired.", choices=list(PRETRAINING_SCHEDULES))
    batch_size: int | None = option(None, f"Texts per optimizer step, over all processes (default: {BATCH_SIZE}).")
    time_budget: str | None = option(None, "Such as 8h or 1h30m: as many steps as fit into it, in place of epochs.")
    mlm_probability: float | None = option(None, "Share of tokens to predict; default: the schedule's.")
    cls_objective: bool | None = option(None, "[CLS] also predicts a word of its text; default: the schedule's.")


@dataclass
class OutputOptions:
    _argument_group_name = "output"
    num_members: int | None = option(None, "Independent members, each in OUTPUT/member-k.")
    workers: int | None = option(None, "With --num-members: how many train at once; default: one for each CPU thread.")
    num_threads: int | None = option(None, "CPU threads; default: torch's choice.")


@dataclass
class PretrainingArguments(OurArguments):
    """transformers' TrainingArguments with the defaults of pre-training."""

    num_train_epochs: float = option(6.0, "Passes over the corpus.", group="schedule")
    max_steps: int = option(-1, "Optimizer steps, in place of epochs.", group="schedule")
    learning_rate: float = option(2e-3, "Peak learning rate; with --model 1e-4.", group="schedule")
    save_steps: float = option(500, "Steps between checkpoints.", group="output")
    eval_steps: float | None = option(500, "Steps between losses on fixed masks.", group="output")
    eval_strategy: str = "steps"  # type: ignore[assignment]
    remove_unused_columns: bool = False
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    ddp_find_unused_parameters: bool | None = False  # every weight has a gradient


GROUPS = (CorpusOptions, ModelOptions, ScheduleOptions, OutputOptions, PretrainingArguments)
SHAPE = ("vocab_size", "max_length", "hidden_size", "num_hidden_layers", "num_attention_heads")
OF_ANY_MODEL = ("model", "max_length", "dropout")
NEW_WEIGHTS = [entry.name for entry in fields(ModelOptions) if entry.name not in OF_ANY_MODEL] + ["num_members"]
NO_EFFECT = (
    "per_device_eval_batch_size", "label_smoothing_factor", "metric_for_best_model", "greater_is_better",
    "include_for_metrics", "prediction_loss_only", "batch_eval_metrics", "eval_accumulation_steps",
)  # fmt: skip
ALWAYS_RECORDED = ("num_train_epochs", "max_steps", "gradient_accumulation_steps", "eval_steps")
NOT_RECORDED = ("corpus", "text_unit", "encoding", "quoting", "tokenizer", "model", "num_members")
NOT_OPTIONS = ("name", "decays_everything", "parts", "group_by_length", "full_rate_up_to")
OF_SCHEDULE = [entry.name for entry in fields(Schedule) if entry.name not in NOT_OPTIONS]


class PretrainOptions(NamedTuple):
    """The groups of a pre-training's options; `schedule` is the named one with the values that were given."""

    corpus: CorpusOptions
    model: ModelOptions
    masking: ScheduleOptions
    output: OutputOptions
    schedule: Schedule
    training: dict[str, Any]

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "PretrainOptions":
        """Sort options into groups; raises UserError for impossible ones."""
        given = check_names(given, GROUPS)
        refuse(given, NO_EFFECT, "it has no effect on pre-training")
        if "model" in given:
            refuse(given, NEW_WEIGHTS, "it is of new weights, and --model has its own")
        if "tokenizer" in given:
            refuse(given, ("cased", "keep_accents"), "it is of a tokenizer that is trained, and --tokenizer names one")
        if "num_members" not in given:
            refuse(given, ("workers",), "it is for several members: add --num-members")
        if "per_device_train_batch_size" not in given:
            given.setdefault("batch_size", BATCH_SIZE)
        *groups, training = sort_options(given, GROUPS)
        options = cls._make([*groups, _choose_schedule(groups[1], given), training])
        model, masking, share = options.model, options.masking, options.schedule.mlm_probability
        check_range(model, SHORT, math.inf, "max_length")
        if not 0 < share < 1:
            raise UserError(f"--mlm-probability is {share}: give a share between 0 and 1.")
        if share * (model.max_length or LONGEST_DEFAULT) * (masking.batch_size or BATCH_SIZE) < 1:
            raise UserError(f"--mlm-probability is {share}: no token would be masked; give 0.15 or so.")
        if masking.time_budget is not None:
            parse_duration(masking.time_budget)
            if options.output.num_members is not None:
                raise UserError("--time-budget is for one encoder: with --num-members give --max-steps.")
        if model.model is None:
            check_memory(options, options.config())
        return options

    def config(self) -> TLMConfig:
        """The configuration that the recipe gives; raises UserError for an impossible one."""
        changes: Json = {name: getattr(self.model, name) for name in SHAPE}
        changes |= {name: getattr(self.schedule, name) for name in ("initializer_range", "dropout")}
        return build_config(self.model.recipe, self.model.size, **changes)

    def arguments(self) -> PretrainingArguments:
        """Trainer's options but for the number of steps."""
        names = ("learning_rate", "warmup_steps", "weight_decay", "adam_beta2", "max_grad_norm")
        values = {name: getattr(self.schedule, name) for name in names}
        return build_arguments(PretrainingArguments, values | self.training, self.masking.batch_size)

    def settings(self) -> dict[str, Any]:
        """What a run records: the options that decide the weights."""
        training = self.training | {name: getattr(self.schedule, name) for name in OF_SCHEDULE}
        unused = NEW_WEIGHTS if self.model.model is not None else []
        return record(self[:3], PretrainingArguments, training, ALWAYS_RECORDED, [*NOT_RECORDED, *unused])


def check_memory(options: PretrainOptions, config: TLMConfig) -> None:
    """Refuse, before anything is built, a training that needs more memory than the machine (or its GPU) has.

    Counted are float32 matrices with gradients and AdamW's two moments, and what a pass keeps, as measured: for a token
    and a hidden unit 8 values in the last layer, 20 in each other one, 6.5 in each channel of a convolution; for a pair
    of tokens 2.5 in each head; for a token 0.2 of the vocabulary.
    """
    training, batch, rows = options.training, "batch_size", options.masking.batch_size
    use_cpu, parts = training.get("use_cpu", False), training.get("gradient_accumulation_steps", 1)
    parts *= int(os.environ.get("WORLD_SIZE", "1"))
    if rows is None:
        batch, rows, parts = "per_device_train_batch_size", training["per_device_train_batch_size"], 1
    width = 2 if choose_precision(training.get("bf16", "auto"), use_cpu) else 4
    convolution = 6.5 * (config.conv_channels or 0) * len(config.conv_kernel_sizes or [])
    asked = {name: getattr(options.model, name) for name in SHAPE[:4]} | {batch: rows}
    given = {name: value for name, value in asked.items() if value is not None}
    shape = {name: getattr(config, name.replace("max_length", "max_position_embeddings")) for name in SHAPE[:4]}
    shape |= given

    def gibibytes(**changed: int) -> float:
        vocabulary, length, hidden, layers, texts = (shape | changed).values()
        of_unit = 8 + 20 * (layers - 1) + convolution
        of_token = of_unit * hidden + 2.5 * (layers - 1) * config.num_attention_heads * length + 0.2 * vocabulary
        weights = 4 * 4 * (vocabulary + length + 12 * hidden * layers) * hidden
        return (weights + width * of_token * length * texts / parts) / 2**30

    on_gpu = torch.cuda.is_available() and not use_cpu
    available = (torch.cuda.get_device_properties(0).total_memory if on_gpu else psutil.virtual_memory().total) / 2**30
    if gibibytes() <= available:
        return
    sentence = f"training would need {gibibytes():,.0f} GiB of memory, and there are {available:,.0f}"
    for name, value in given.items():
        fitting = value
        while fitting > 1 and gibibytes(**{name: fitting}) > available:
            fitting //= 2
        if fitting > 1:
            raise UserError(f"{flag(name)} is {value}: {sentence}: give at most about {fitting}.")
    raise UserError(f"{sentence.capitalize()}: lower {', '.join(map(flag, ['size', *given]))}.")


def _choose_schedule(model: ModelOptions, given: Mapping[str, Any]) -> Schedule:
    schedule = PRETRAINING_SCHEDULES[given.get("schedule", "tlm")]
    if schedule.parts is not None:
        names = ("warmup_steps", "lr_scheduler_type", "lr_scheduler_kwargs")
        refuse(given, names, f"the schedule {schedule.name} sets the rate itself")
    if model.model is not None:
        plain: Json = dict.fromkeys(("unigram_bias", "neighbour_heads", "cls_objective"), False)
        rate = schedule.learning_rate if "schedule" in given else CONTINUED_RATE
        schedule = replace(schedule, learning_rate=rate, initialization="random", **plain)
    elif schedule.full_rate_up_to is not None:
        shape = {name: getattr(model, name) for name in ("hidden_size", "num_attention_heads")}
        share = min(1.0, schedule.full_rate_up_to / build_config(model.recipe, model.size, **shape).hidden_size)
        schedule = replace(schedule, learning_rate=schedule.learning_rate * share**2)
    return replace(schedule, **{name: given[name] for name in OF_SCHEDULE if name in given})
