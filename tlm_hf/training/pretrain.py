"""Masked-language-model pre-training of one encoder with transformers.Trainer (Accelerate underneath)."""

import copy
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed

from ..configuration_tlm import TLMConfig
from ..data.corpora import corpus_hash, load_corpus
from ..data.masking import MaskingCollator, PretrainingSchedule
from ..data.packing import PackedMaskingCollator, PackedSchedule, PackedTexts
from ..data.token_cache import TokenTable, tokenize_once
from ..data.tokenization import SPECIAL_TOKENS, TextColumn, load_tokenizer, tokenizer_hash, train_wordpiece
from ..errors import UserError, check_range
from ..evaluation.scoring import masked_lm_score
from ..modeling_tlm import TLMForMaskedLM
from ..provenance import portable_path
from ..recipes import Schedule, build_config, find_schedule, find_size
from ..runs import Run
from .callbacks import EarlyLook
from .processes import choose_precision, report_processes
from .time_budget import decide_steps, parse_duration
from .trainer import LARGEST_SEED, RunTrainer, check_report_to, stays_on_cpu

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
    batch_size: int = field(
        default=32, metadata={"help": "Texts (with --packing: rows) per optimizer step, over all processes."}
    )
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
    packing: bool = field(
        default=False, metadata={"help": "Several texts in a row in place of batches of equal lengths."}
    )
    dropout: float | None = field(default=None, metadata={"help": "Hidden and attention dropout (likewise)."})
    initializer_range: float | None = field(default=None, metadata={"help": "Default: 1/sqrt(hidden size)."})
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
    *("members", "workers"),
    *("corpus", "corpus_unit", "tokenizer"),  # they count by their texts and tokens, wherever they lie
)
"""Options that leave the weights as they are, so that a run may continue with others."""
ADDED_LATER = ("whole_word_masking", "packing", "final_mlm_probability", "schedule", "time_budget")
"""Options that older runs do not name: where they are off they are not recorded, so that those runs go on."""


FROM_SCHEDULE = (
    "learning_rate", "warmup_share", "weight_decay", "adam_beta2", "max_grad_norm", "mlm_probability",
    "final_mlm_probability", "dropout", "initializer_range",
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
    if arguments.packing and config.has_convolution:
        raise UserError(
            f"The convolution of {arguments.recipe} would mix the texts of a packed row: leave --packing out."
        )
    return config


def pretrain(arguments: PretrainArguments) -> dict[str, Any]:
    """Pre-train an encoder, or continue where an interrupted run stood.

    The finished folder holds the model (a stock BERT where there is no convolution), its tokenizer and `results.json`.

    Args:
        arguments: the options.

    Returns:
        The results as written: the loss on fixed masks (nats per masked token), texts, tokens, seconds, and
        `padding_share`, the share of the positions of all training batches that is padding.

    Raises:
        UserError: bad input, or an output folder that belongs to another run.
        KeyboardInterrupt: interrupted, after a checkpoint was saved.
    """
    started = time.perf_counter()
    bf16 = choose_precision(arguments.bf16, arguments.use_cpu)
    schedule = choose_schedule(arguments)
    config = check_arguments(arguments, schedule)
    options = _training_arguments(arguments, schedule, bf16)
    if arguments.num_threads is not None:
        torch.set_num_threads(arguments.num_threads)
    report_processes(options)
    tokenizer = None
    if arguments.tokenizer is not None:
        tokenizer = load_tokenizer(arguments.tokenizer, config.max_position_embeddings)
        if arguments.vocab_size not in (None, len(tokenizer)):
            raise UserError(
                f"--vocab-size is {arguments.vocab_size} but the tokenizer {arguments.tokenizer!r} has "
                f"{len(tokenizer)} tokens: leave --vocab-size out."
            )
    corpus = load_pretraining_corpus(arguments)
    chosen = asdict(arguments) | {"bf16": bf16} | {name: getattr(schedule, name) for name in FROM_SCHEDULE}
    settings = {
        key: value
        for key, value in chosen.items()
        if key not in NOT_DECISIVE and (value not in (None, False, "tlm") or key not in ADDED_LATER)
    }
    settings["corpus_sha256"] = corpus_hash(corpus)
    settings["threads"] = torch.get_num_threads()
    if tokenizer is not None:
        settings["tokenizer_sha256"] = tokenizer_hash(tokenizer)
    run = Run(arguments.output_dir, "pretrain", settings)
    if run.results is not None:
        return run.results
    if tokenizer is None:
        tokenizer = train_wordpiece(TextColumn(corpus["train"]), config.vocab_size, config.max_position_embeddings)
    config.vocab_size = len(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    length = config.max_position_embeddings
    token_ids = {split: tokenize_once(corpus[split], tokenizer, length) for split in ("train", "validation")}
    return _train(arguments, schedule, run, options, config, tokenizer, token_ids, started)


def load_pretraining_corpus(arguments: PretrainArguments) -> datasets.DatasetDict:
    """The corpus that the options choose; raises UserError as `load_corpus`."""
    return load_corpus(
        arguments.corpus,
        num_texts=_texts_wanted(arguments),
        validation_texts=arguments.validation_texts,
        text_column=arguments.text_column,
        config=arguments.corpus_config,
        revision=arguments.corpus_revision,
        root=arguments.data_root,
        seed=arguments.subset_seed,
        unit=arguments.corpus_unit,
    )


def _texts_wanted(arguments: PretrainArguments) -> int | None:
    """How many texts: as asked, or the size's for Wikipedia; any other corpus is taken whole."""
    if arguments.num_texts is not None or arguments.corpus != "wikipedia":
        return arguments.num_texts
    # A tenth of the local paragraphs is enough held-out text, so "up to" 100,000 stays below what there is.
    return min(find_size(arguments.size).num_texts, 90_000)


def _train(
    arguments: PretrainArguments,
    schedule: Schedule,
    run: Run,
    options: TrainingArguments,
    config: TLMConfig,
    tokenizer: PreTrainedTokenizerBase,
    token_ids: dict[str, TokenTable],
    started: float,
) -> dict[str, Any]:
    """Build model and Trainer, train from the last checkpoint, and finish the run."""
    texts = token_ids["train"].select(np.flatnonzero(token_ids["train"].lengths >= SHORTEST_TEXT))
    if not len(texts):
        run.discard()
        raise UserError(
            f"The corpus {arguments.corpus!r} has no text of at least {SHORTEST_TEXT} tokens: give longer texts."
        )
    rows = PackedTexts(texts, config.max_position_embeddings, arguments.seed) if arguments.packing else texts
    steps = arguments.max_steps
    if steps < 0:
        steps = math.ceil(arguments.num_train_epochs * len(rows) / arguments.batch_size)

    def build_trainer(steps: int, output_dir: str, *, trial: bool) -> _PretrainTrainer:
        """The run's trainer, or one of the same work for the trial of a time budget."""
        items = steps * arguments.batch_size
        order = (items, arguments.batch_size, arguments.seed)
        sequence = (
            PackedSchedule(rows, *order)
            if isinstance(rows, PackedTexts)
            else PretrainingSchedule(rows, *order, group_by_length=schedule.group_by_length)
        )
        collator = PackedMaskingCollator if arguments.packing else MaskingCollator
        own = copy.copy(options)
        own.max_steps, own.output_dir = steps, output_dir
        if trial:
            own.report_to, own.disable_tqdm = [], True
        set_seed(arguments.seed)
        return _PretrainTrainer(
            schedule=schedule,
            model=TLMForMaskedLM(copy.deepcopy(config)),
            args=own,
            train_dataset=sequence,
            eval_dataset=[],  # evaluation is the scorer's
            data_collator=collator(
                tokenizer,
                schedule.mlm_probability,
                arguments.seed,
                whole_word=arguments.whole_word_masking,
                final_mlm_probability=schedule.final_mlm_probability,
                num_items=items,
            ),
            processing_class=tokenizer,
            scorer=lambda scored: masked_lm_score(scored, tokenizer, token_ids["validation"]),
            callbacks=[] if trial else [EarlyLook(tokenizer, token_ids["validation"])],
        )

    if arguments.time_budget is not None:
        steps = decide_steps(
            run.folder,
            parse_duration(arguments.time_budget),
            lambda trial_steps, folder: build_trainer(trial_steps, folder, trial=True),
            eval_steps=arguments.eval_steps,
            save_steps=arguments.save_steps,
            started=started,
        )
    trainer = build_trainer(steps, arguments.output_dir, trial=False)
    model, sequence = trainer.model, trainer.train_dataset
    checkpoint = run.last_checkpoint()
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.interrupt.interrupted:
        raise KeyboardInterrupt
    seconds = time.perf_counter() - start
    held_out = masked_lm_score(trainer.model, tokenizer, token_ids["validation"])
    results = {
        "model": f"{arguments.recipe}@{arguments.size}",
        "corpus": portable_path(arguments.corpus),
        "parameters": model.num_parameters(),
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "vocab_size": config.vocab_size,
        "max_length": config.max_position_embeddings,
        "steps": steps,
        "texts": len(texts),
        "epochs": steps * arguments.batch_size / len(rows),
        "tokens_per_epoch": int(texts.lengths.sum(dtype=np.int64)),
        "padding_share": sequence.padding_share(options.train_batch_size),
        "held_out": held_out,
        "seconds_since_start_or_continuation": seconds,
        "continued_from_step": 0 if checkpoint is None else int(checkpoint.name.removeprefix("checkpoint-")),
        "history": trainer.state.log_history,
    }

    state = trainer.accelerator.get_state_dict(trainer.model)  # every process: shards are gathered

    def save(folder: Path) -> None:
        trainer.model.save_pretrained(folder, state_dict=state)
        tokenizer.save_pretrained(folder)

    return run.finish(save, results) if options.should_save else results


class _PretrainTrainer(RunTrainer):
    """RunTrainer with a `Schedule`; it logs with each training loss the share of padding in the batches since then."""

    def __init__(self, *args: Any, schedule: Schedule, **kwargs: Any) -> None:
        self.schedule = schedule
        super().__init__(*args, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """Trainer's, or the rate by parts of the run."""
        if self.schedule.parts is None:
            return super().create_scheduler(num_training_steps, optimizer)
        wanted = self.optimizer if optimizer is None else optimizer
        self.lr_scheduler = LambdaLR(wanted, lambda step: self.schedule.factor(step, num_training_steps))
        return self.lr_scheduler

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Trainer's choice (no biases, no LayerNorms), or every parameter."""
        if self.schedule.decays_everything:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and isinstance(self.train_dataset, PretrainingSchedule):
            before = max((row["step"] for row in self.state.log_history if "padding_share" in row), default=0)
            items = (step * self.train_dataset.batch_size for step in (before, self.state.global_step))
            logs["padding_share"] = self.train_dataset.padding_share(self.args.train_batch_size, *items)
        super().log(logs, start_time)


def _training_arguments(arguments: PretrainArguments, schedule: Schedule, bf16: bool) -> TrainingArguments:
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
