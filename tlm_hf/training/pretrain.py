"""Masked-language-model pre-training of one encoder with transformers.Trainer (Accelerate underneath)."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import datasets
import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed

from ..data.corpora import corpus_hash, load_corpus
from ..data.masking import MaskingCollator, PretrainingSchedule
from ..data.token_cache import TokenTable, tokenize_once
from ..data.tokenization import TextColumn, load_tokenizer, tokenizer_hash, train_wordpiece
from ..errors import UserError
from ..evaluation.scoring import masked_lm_score
from ..models.configuration_tlm import TLMConfig
from ..models.modeling_tlm import TLMForMaskedLM
from ..recipes import Schedule, find_size
from ..runs.checkpoints import step_of
from ..runs.output_folder import Run
from ..runs.provenance import portable_path
from .callbacks import EarlyLook
from .pretrain_options import (
    FROM_SCHEDULE,
    NOT_DECISIVE,
    SHORTEST_TEXT,
    PretrainArguments,
    check_arguments,
    choose_schedule,
    training_arguments,
)
from .processes import choose_precision, report_processes
from .snapshots import Snapshots, check_not_missed, check_steps, encoder_saver
from .time_budget import decide_steps, parse_duration
from .trainer import RunTrainer


def pretrain(arguments: PretrainArguments, observe: Callable[[RunTrainer], None] | None = None) -> dict[str, Any]:
    """Pre-train an encoder, or continue where an interrupted run stood.

    The finished folder holds the model (a stock BERT where there is no convolution), its tokenizer and `results.json`.

    Args:
        arguments: the options.
        observe: is given the trainer before it trains, to add callbacks that leave weights and random numbers alone.

    Returns:
        The results as written: the loss on fixed masks (nats per masked token), texts, tokens, seconds,
        `padding_share`, the share of the positions of all training batches that is padding, and `speed`, what
        `StepClock` measured since the start or the continuation.

    Raises:
        UserError: bad input, or an output folder that belongs to another run.
        KeyboardInterrupt: interrupted, after a checkpoint was saved.
    """
    started = time.perf_counter()
    bf16 = choose_precision(arguments.bf16, arguments.use_cpu)
    schedule = choose_schedule(arguments)
    config = check_arguments(arguments, schedule)
    options = training_arguments(arguments, schedule, bf16)
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
    settings = {key: value for key, value in chosen.items() if key not in NOT_DECISIVE}
    settings["corpus_sha256"] = corpus_hash(corpus)
    settings["threads"] = torch.get_num_threads()
    if tokenizer is not None:
        settings["tokenizer_sha256"] = tokenizer_hash(tokenizer)
    run = Run(arguments.output_dir, "pretrain", settings)
    if run.results is not None:
        check_not_missed(run.folder, arguments.snapshot_steps)
        return run.results
    if tokenizer is None:
        tokenizer = train_wordpiece(TextColumn(corpus["train"]), config.vocab_size, config.max_position_embeddings)
    config.vocab_size = len(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    length = config.max_position_embeddings
    token_ids = {split: tokenize_once(corpus[split], tokenizer, length) for split in ("train", "validation")}
    return _train(arguments, schedule, run, options, config, tokenizer, token_ids, started, observe)


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
    observe: Callable[[RunTrainer], None] | None,
) -> dict[str, Any]:
    """Build model and Trainer, train from the last checkpoint, and finish the run."""
    texts = token_ids["train"].select(np.flatnonzero(token_ids["train"].lengths >= SHORTEST_TEXT))
    if not len(texts):
        run.discard()
        raise UserError(
            f"The corpus {arguments.corpus!r} has no text of at least {SHORTEST_TEXT} tokens: give longer texts."
        )
    steps = arguments.max_steps
    if steps < 0:
        steps = math.ceil(arguments.num_train_epochs * len(texts) / arguments.batch_size)

    bias = unigram_bias(texts, config.vocab_size, tokenizer) if schedule.unigram_bias else None

    def build_trainer(steps: int, output_dir: str, *, trial: bool) -> _PretrainTrainer:
        """The run's trainer, or one of the same work for the trial of a time budget."""
        items = steps * arguments.batch_size
        sequence = PretrainingSchedule(
            texts, items, arguments.batch_size, arguments.seed, group_by_length=schedule.group_by_length
        )
        own = copy.copy(options)
        own.max_steps, own.output_dir = steps, output_dir
        if trial:
            own.report_to, own.disable_tqdm = [], True
        set_seed(arguments.seed)
        model = TLMForMaskedLM(copy.deepcopy(config))
        if bias is not None:
            model.cls.predictions.bias.data.copy_(bias)
        return _PretrainTrainer(
            schedule=schedule,
            model=model,
            args=own,
            train_dataset=sequence,
            eval_dataset=[],  # evaluation is the scorer's
            data_collator=MaskingCollator(
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
    try:
        check_steps(arguments.snapshot_steps, steps)
    except UserError:
        if arguments.time_budget is None:  # else the number of steps is decided, and the folder keeps it
            run.discard()
        raise
    trainer = build_trainer(steps, arguments.output_dir, trial=False)
    if observe is not None:
        observe(trainer)
    model, sequence = trainer.model, trainer.train_dataset
    checkpoint = run.last_checkpoint()
    begun = 0 if checkpoint is None else step_of(checkpoint)
    check_not_missed(run.folder, arguments.snapshot_steps, begun)
    start = time.perf_counter()

    def describe(done: int) -> dict[str, Any]:
        """What the results say of the encoder after so many steps; every process scores it."""
        seconds = time.perf_counter() - start
        items = done * arguments.batch_size
        return {
            "model": f"{arguments.recipe}@{arguments.size}",
            "corpus": portable_path(arguments.corpus),
            "parameters": model.num_parameters(),
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_hidden_layers,
            "vocab_size": config.vocab_size,
            "max_length": config.max_position_embeddings,
            "steps": done,
            "texts": len(texts),
            "epochs": items / len(texts),
            "tokens_per_epoch": int(texts.lengths.sum(dtype=np.int64)),
            "padding_share": sequence.padding_share(options.train_batch_size, 0, items),
            "held_out": masked_lm_score(trainer.model, tokenizer, token_ids["validation"]),
            "speed": trainer.clock.summary(),
            "seconds_since_start_or_continuation": seconds,
            "continued_from_step": begun,
            "history": trainer.state.log_history,
        }

    trainer.take_snapshots(Snapshots(run, arguments.snapshot_steps, tokenizer, describe))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    results = describe(steps)
    save = encoder_saver(trainer, tokenizer)
    return run.finish(save, results) if options.should_save else results


def unigram_bias(texts: TokenTable, vocab_size: int, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """log((n + 1) / (N + vocab_size)), n of N being how often a token stands in the texts: float32 (vocab_size,).

    Special tokens count as never seen: they are never to be predicted. With small initial weights a model with this
    bias guesses the share of each token, whose loss is the entropy of the tokens.
    """
    counts = texts.counts(vocab_size)
    counts[tokenizer.all_special_ids] = 0
    return torch.from_numpy(np.log((counts + 1) / (counts.sum() + vocab_size))).float()


class _PretrainTrainer(RunTrainer):
    """RunTrainer with a `Schedule`; it logs with each training loss the share of padding in the batches since then."""

    def __init__(self, *args: Any, schedule: Schedule, **kwargs: Any) -> None:
        self.schedule = schedule
        self.snapshots: Snapshots | None = None
        super().__init__(*args, **kwargs)

    def take_snapshots(self, snapshots: Snapshots) -> None:
        """Keep the encoder as it is after some steps; called before `train`."""
        self.snapshots = snapshots
        self.add_callback(snapshots)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """The snapshot of this step comes first, so that of a checkpoint's steps no snapshot is missing."""
        if self.snapshots is not None:
            self.snapshots.write(self)
        super()._save_checkpoint(model, trial)

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
