"""Options of pre-training: what there is, what is refused, and what of it Trainer is told."""

import importlib.util
import math
from dataclasses import dataclass, field, replace

import torch
from transformers import TrainingArguments

from ..data.tokenization import SPECIAL_TOKENS
from ..errors import UserError, check_range
from ..models.configuration_tlm import TLMConfig
from ..recipes import Schedule, build_config, find_schedule
from .processes import stays_on_cpu
from .snapshots import check_steps
from .time_budget import parse_duration

LARGEST_SEED = 2**32 - 1
"""What numpy's seeding accepts."""
TRACKERS = ("tensorboard", "trackio", "wandb")


def check_report_to(name: str) -> None:
    """Raise UserError unless `--report-to` is `none` or a known tracker that is installed."""
    if name not in ("none", *TRACKERS):
        raise UserError(f"--report-to is {name!r}: choose none, {', '.join(TRACKERS)}.")
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(f"--report-to {name} needs the package {name}: pip install {name}, or choose none.")


SHORTEST_TEXT = 8
"""Texts of fewer tokens are left out: with a few tokens masked they would often have nothing to predict."""


@dataclass
class PretrainArguments:
    """Options of `tlm pretrain`; names follow transformers' TrainingArguments where there is one."""

    output_dir: str = field(metadata={"help": "Output folder; called again with the same one, the run continues."})
    corpus: str = field(
        default="wikipedia",
        metadata={"help": "docstrings, wikipedia, a parquet/JSON/CSV/text file or folder, or a Hub data set."},
    )
    recipe: str = field(default="bert-1", metadata={"help": "Architecture (python -m tlm_hf.recipes lists them)."})
    size: str = field(default="laptop", metadata={"help": "smoke, quickstart, laptop or paper."})
    hidden_size: int | None = field(default=None, metadata={"help": "Width, in place of the size's."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Layers, in place of the recipe's."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "Heads, in place of hidden size / 64."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens per text, in place of the size's."})
    vocab_size: int | None = field(default=None, metadata={"help": "WordPiece vocabulary to train."})
    tokenizer: str | None = field(
        default=None, metadata={"help": "vocab.txt, folder or Hub name; default: WordPiece trained on the corpus."}
    )
    num_texts: int | None = field(default=None, metadata={"help": "Texts to train on, in place of the size's."})
    text_column: str = field(default="text", metadata={"help": "Column that holds the text."})
    corpus_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    corpus_revision: str | None = field(default=None, metadata={"help": "Revision of a Hub data set."})
    corpus_unit: str | None = field(
        default=None, metadata={"help": "Of a Wikipedia streamed from the Hub: article (default) or paragraph."}
    )
    data_root: str | None = field(default=None, metadata={"help": "Folder of real text; default: $TLM_DATA."})
    validation_texts: int = field(default=1000, metadata={"help": "Texts held out for the fixed-mask loss."})
    num_train_epochs: float = field(default=6.0, metadata={"help": "Passes over the corpus."})
    max_steps: int = field(default=-1, metadata={"help": "Optimizer steps, in place of epochs."})
    time_budget: str | None = field(
        default=None, metadata={"help": "Such as 8h or 1h30m: as many steps as fit into it, in place of epochs."}
    )
    batch_size: int = field(default=32, metadata={"help": "Texts per optimizer step, over all processes."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Passes that make up one step."})
    schedule: str = field(
        default="tlm",
        metadata={"help": "tlm, paper (the authors', faults kept) or paper-repaired."},
    )
    learning_rate: float | None = field(default=None, metadata={"help": "At the peak (default: the schedule's)."})
    warmup_share: float | None = field(
        default=None, metadata={"help": "Share of the steps with rising rate (likewise)."}
    )
    weight_decay: float | None = field(default=None, metadata={"help": "AdamW's (likewise)."})
    adam_beta2: float | None = field(default=None, metadata={"help": "AdamW's second beta (likewise)."})
    max_grad_norm: float | None = field(default=None, metadata={"help": "Gradient clipping, 0 for none (likewise)."})
    mlm_probability: float | None = field(default=None, metadata={"help": "Share of tokens to predict (likewise)."})
    final_mlm_probability: float | None = field(
        default=None, metadata={"help": "That share at the last step, to which it moves linearly."}
    )
    whole_word_masking: bool = field(default=False, metadata={"help": "Mask whole words in place of single tokens."})
    dropout: float | None = field(default=None, metadata={"help": "Hidden and attention dropout (likewise)."})
    initializer_range: float | None = field(
        default=None, metadata={"help": "Default: 1/sqrt(hidden size) for one narrow layer, else 0.02."}
    )
    unigram_bias: bool | None = field(
        default=None, metadata={"help": "Start the decoder's bias at the tokens' log frequencies (the schedule's)."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights, order and masks (not of the choice of texts)."})
    subset_seed: int = field(default=0, metadata={"help": "Seed of the choice of texts."})
    bf16: str = field(
        default="auto",
        metadata={"nargs": "?", "const": "true", "help": "bfloat16 autocast: true, false, or auto (where it is fast)."},
    )
    members: int | None = field(default=None, metadata={"help": "Independent members, each in OUTPUT/member-k."})
    workers: int | None = field(
        default=None, metadata={"help": "With --members: side by side; default: one for each CPU thread."}
    )
    save_steps: int = field(default=500, metadata={"help": "Steps between checkpoints."})
    snapshot_steps: list[int] = field(
        default_factory=list, metadata={"help": "Keep the encoder as it is after these steps, in OUTPUT/step-N."}
    )
    eval_steps: int = field(default=500, metadata={"help": "Steps between fixed-mask losses."})
    logging_steps: int = field(default=50, metadata={"help": "Steps between log lines."})
    report_to: str = field(default="none", metadata={"help": "tensorboard, trackio or wandb."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads; default: torch's choice."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU even where there is a GPU."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar (for logs)."})


COUNTS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_texts", "validation_texts", "batch_size",
    "gradient_accumulation_steps", "save_steps", "eval_steps", "logging_steps", "num_threads",
)  # fmt: skip
"""Options of which there must be at least 1."""
NOT_DECISIVE = (
    *("output_dir", "report_to", "logging_steps", "save_steps", "disable_tqdm", "data_root", "num_threads"),
    *("members", "workers", "snapshot_steps"),
    *("corpus", "corpus_unit", "tokenizer"),  # they count by their texts and tokens, wherever they lie
)
"""Options that leave the weights as they are, so that a run may continue with others."""
FROM_SCHEDULE = (
    "learning_rate", "warmup_share", "weight_decay", "adam_beta2", "max_grad_norm", "mlm_probability",
    "final_mlm_probability", "dropout", "initializer_range", "unigram_bias",
)  # fmt: skip
"""Options whose default is the schedule's."""


def choose_schedule(arguments: PretrainArguments) -> Schedule:
    """The named schedule with the values that were given in place of its own.

    Raises:
        UserError: unknown schedule, or a warm-up for a rate that is set by parts.
    """
    schedule = find_schedule(arguments.schedule)
    if schedule.parts is not None and arguments.warmup_share is not None:
        raise UserError(f"The schedule {schedule.name} has its own warm-up: leave --warmup-share out.")
    if arguments.learning_rate is None and schedule.full_rate_up_to is not None:
        width = build_config(
            arguments.recipe,
            arguments.size,
            hidden_size=arguments.hidden_size,
            num_attention_heads=arguments.num_attention_heads,
        ).hidden_size
        schedule = replace(schedule, learning_rate=schedule.rate_at(width))
    given = {name: getattr(arguments, name) for name in FROM_SCHEDULE}
    return replace(schedule, **{name: value for name, value in given.items() if value is not None})


def check_arguments(arguments: PretrainArguments, schedule: Schedule) -> TLMConfig:
    """Refuse impossible options before any work; returns the configuration that the recipe gives.

    Raises:
        UserError: one sentence that names the option.
    """
    check_range(arguments, 1, math.inf, *COUNTS)
    check_range(arguments, SHORTEST_TEXT, math.inf, "max_length")
    check_range(arguments, len(SPECIAL_TOKENS) + 1, math.inf, "vocab_size")
    check_range(arguments, 0, 1, "warmup_share", "dropout", "adam_beta2")
    check_range(arguments, 0, math.inf, "learning_rate", "weight_decay", "max_grad_norm", "initializer_range")
    check_range(arguments, 0, LARGEST_SEED, "seed", "subset_seed")
    check_report_to(arguments.report_to)
    for name in ("mlm_probability", "final_mlm_probability"):
        share = getattr(arguments, name)
        if share is not None and not 0 < share < 1:
            raise UserError(f"--{name.replace('_', '-')} is {share}: give a share between 0 and 1.")
    if arguments.time_budget is not None:
        parse_duration(arguments.time_budget)
        if arguments.members is not None:
            raise UserError("--time-budget is for one run, not for --members: give --max-steps or --num-train-epochs.")
        if arguments.max_steps > 0:
            raise UserError("--time-budget and --max-steps both say when to stop: leave one of them out.")
    if arguments.max_steps == 0 or (arguments.max_steps < 0 and arguments.num_train_epochs <= 0):
        raise UserError("Nothing to train: give --num-train-epochs or --max-steps above 0.")
    check_steps(arguments.snapshot_steps, arguments.max_steps if arguments.max_steps > 0 else None)
    config = build_config(
        arguments.recipe,
        arguments.size,
        vocab_size=arguments.vocab_size,
        max_length=arguments.max_length,
        hidden_size=arguments.hidden_size,
        num_hidden_layers=arguments.num_hidden_layers,
        num_attention_heads=arguments.num_attention_heads,
        initializer_range=schedule.initializer_range,
        dropout=schedule.dropout,
    )
    return config


def training_arguments(arguments: PretrainArguments, schedule: Schedule, bf16: bool) -> TrainingArguments:
    """Trainer's options but for the steps; the batch size is split over processes and accumulation."""
    options = TrainingArguments(
        output_dir=arguments.output_dir,
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=schedule.warmup_share,
        weight_decay=schedule.weight_decay,
        adam_beta2=schedule.adam_beta2,
        max_grad_norm=schedule.max_grad_norm,
        bf16=bf16,
        use_cpu=stays_on_cpu(arguments.use_cpu),
        seed=arguments.seed,
        logging_steps=arguments.logging_steps,
        save_steps=arguments.save_steps,
        eval_strategy="steps",
        eval_steps=arguments.eval_steps,
        report_to=arguments.report_to,
        remove_unused_columns=False,
        label_names=["labels"],
        logging_nan_inf_filter=False,  # the watch on the loss must see it
        ddp_find_unused_parameters=False,  # every weight has a gradient, and looking for others costs
        disable_tqdm=arguments.disable_tqdm,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    parts = options.world_size * max(1, options.n_gpu) * arguments.gradient_accumulation_steps
    if arguments.batch_size % parts:
        raise UserError(
            f"--batch-size {arguments.batch_size} cannot be split over {parts} parts (processes x accumulation steps): "
            f"choose a multiple of {parts}."
        )
    options.per_device_train_batch_size = arguments.batch_size // parts
    return options
