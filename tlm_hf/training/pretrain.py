"""Masked-language-model pre-training of one encoder with transformers.Trainer (Accelerate underneath)."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..data.corpora import corpus_hash, load_corpus
from ..data.masking import MaskingCollator, PretrainingSchedule
from ..data.token_cache import TokenTable, tokenize_once
from ..data.tokenization import TextColumn, load_tokenizer, tokenizer_hash, train_wordpiece
from ..errors import UserError
from ..evaluation.scoring import masked_lm_score
from ..loading import load_masked_lm, load_matching_tokenizer, read_encoder_config, weights_hash
from ..models.configuration_tlm import TLMConfig
from ..models.modeling_tlm import TLMForMaskedLM
from ..recipes import Schedule
from ..runs.checkpoints import step_of
from ..runs.output_folder import Run
from ..runs.provenance import portable_path
from .callbacks import EarlyLook, LogRows
from .hub_push import HubPush
from .options import rows_per_step, source_name
from .pretrain_options import (
    SHORTEST_TEXT,
    CorpusOptions,
    PretrainingArguments,
    PretrainOptions,
    check_steps,
    count_texts,
)
from .processes import report_processes
from .snapshots import Snapshots, check_not_missed, encoder_saver
from .time_budget import decide_steps, parse_duration
from .trainer import RunTrainer


def pretrain(*, observe: Callable[[RunTrainer], None] | None = None, **options: Any) -> dict[str, Any]:
    """Pre-train an encoder with new weights or continue an existing one; an interrupted run continues.

    The finished folder holds the model (a stock BERT where there is no convolution), its tokenizer and `results.json`.

        pretrain(corpus="corpus.txt", size="quickstart", output_dir="encoder", max_steps=3000)
        pretrain(corpus=dataset, model="google-bert/bert-base-uncased", output_dir="adapted", max_steps=1000)

    Args:
        observe: is given the trainer before it trains, to add callbacks that leave weights and random numbers alone.
        **options: those of `tlm pretrain`, every field of transformers.TrainingArguments among them; `corpus` may be a
            `datasets.Dataset` or `DatasetDict`.

    Returns:
        The results as written: the loss on fixed masks (nats per masked token), texts, tokens, seconds,
        `padding_share`, the share of the positions of all training batches that is padding, and `speed`, what
        `StepClock` measured since the start or the continuation.

    Raises:
        UserError: bad input, or an output folder that belongs to another run.
        KeyboardInterrupt: interrupted, after a checkpoint was saved.
    """
    started = time.perf_counter()
    chosen = PretrainOptions.read(options)
    arguments = chosen.arguments()
    if chosen.output.num_threads is not None:
        torch.set_num_threads(chosen.output.num_threads)
    report_processes(arguments)

    # 1. Model: the recipe's configuration or an existing encoder, and its tokenizer where there is one
    encoder = _Encoder.find(chosen)
    hub = HubPush.prepare(chosen.training, arguments)

    # 2. Data
    corpus = load_pretraining_corpus(chosen.corpus, chosen.model.size)
    settings = chosen.settings() | encoder.hashes() | {"batch_size": rows_per_step(arguments)}
    settings |= {"corpus_sha256": corpus_hash(corpus), "threads": torch.get_num_threads()}
    run = Run(arguments.output_dir, "pretrain", settings)
    if run.results is not None:
        check_not_missed(run.folder, chosen.output.snapshot_steps)
        hub.push(run.folder)
        return run.results
    tokenizer = encoder.tokenizer or train_wordpiece(
        TextColumn(corpus["train"]), encoder.config.vocab_size, encoder.config.max_position_embeddings
    )
    length = chosen.model.max_length or encoder.config.max_position_embeddings
    tokens = {split: tokenize_once(corpus[split], tokenizer, length) for split in ("train", "validation")}
    texts = tokens["train"].select(np.flatnonzero(tokens["train"].lengths >= SHORTEST_TEXT))
    if not len(texts):
        run.discard()
        raise UserError(
            f"The corpus {chosen.corpus.corpus!r} has no text of at least {SHORTEST_TEXT} tokens: give longer texts."
        )

    # 3. Trainer
    workshop = _Workshop(chosen, arguments, encoder, tokenizer, texts, tokens["validation"])
    steps = _choose_steps(workshop, run, started)
    trainer = workshop.build_trainer(steps, arguments.output_dir)
    if observe is not None:
        observe(trainer)
    checkpoint = run.last_checkpoint()
    begun = 0 if checkpoint is None else step_of(checkpoint)
    check_not_missed(run.folder, chosen.output.snapshot_steps, begun)
    start = time.perf_counter()

    def describe(done: int) -> dict[str, Any]:
        seconds = {"seconds_since_start_or_continuation": time.perf_counter() - start}
        return workshop.describe(trainer, done) | seconds | {"continued_from_step": begun}

    trainer.take_snapshots(Snapshots(run, chosen.output.snapshot_steps, tokenizer, describe))

    # 4. Train
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    # 5. Save
    results = describe(steps)
    save = encoder_saver(trainer, tokenizer)
    if arguments.should_save:
        results = run.finish(save, results)
        hub.push(run.folder)
    return results


def load_pretraining_corpus(options: CorpusOptions, size: str) -> datasets.DatasetDict:
    """The corpus that the options choose; raises UserError as `load_corpus`."""
    return load_corpus(
        options.corpus,
        num_texts=count_texts(options, size),
        validation_texts=options.validation_texts,
        text_column=options.text_column,
        config=options.corpus_config,
        revision=options.corpus_revision,
        root=options.data_root,
        seed=options.subset_seed,
        unit=options.corpus_unit,
    )


@dataclass
class _Encoder:
    """What training starts from.

    Args:
        name: of the recipe and size, or folder or Hub name of an existing encoder.
        config: its configuration; the vocabulary of a recipe is the one asked for.
        tokenizer: None where it is to be trained.
        source: folder or Hub name of the existing encoder, or None for new weights.
        dropout: in place of the existing encoder's; None for its own.
    """

    name: str
    config: TLMConfig
    tokenizer: PreTrainedTokenizerBase | None
    source: str | None = None
    dropout: float | None = None

    @classmethod
    def find(cls, options: PretrainOptions) -> "_Encoder":
        """From the options; raises UserError for a broken folder or a tokenizer that does not fit."""
        model = options.model
        if model.model is not None:
            fields = read_encoder_config(model.model)
            tokenizer = load_matching_tokenizer(model.model, None, fields["vocab_size"])
            config = TLMConfig.from_dict({**fields, "model_type": TLMConfig.model_type})
            if (model.max_length or 0) > config.max_position_embeddings:
                raise UserError(
                    f"--max-length is {model.max_length}, and {model.model} reads at most "
                    f"{config.max_position_embeddings} tokens: give at most that."
                )
            return cls(portable_path(model.model), config, tokenizer, model.model, model.dropout)
        config, found = options.config(), None
        if model.tokenizer is not None:
            found = load_tokenizer(model.tokenizer, config.max_position_embeddings)
            if model.vocab_size not in (None, len(found)):
                raise UserError(
                    f"--vocab-size is {model.vocab_size} but the tokenizer {model.tokenizer!r} has {len(found)} "
                    "tokens: leave --vocab-size out."
                )
        return cls(f"{model.recipe}@{model.size}", config, found)

    def hashes(self) -> dict[str, str]:
        """Of the weights and the tokenizer that it starts from, where there are some."""
        weights = {} if self.source is None else {"weights": weights_hash(self.source)}
        return weights if self.tokenizer is None else weights | {"tokenizer_sha256": tokenizer_hash(self.tokenizer)}

    def build(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """The model before the first step; new weights are drawn from torch's generator."""
        if self.source is not None:
            names = () if self.dropout is None else ("hidden_dropout_prob", "attention_probs_dropout_prob")
            return load_masked_lm(self.source, **dict.fromkeys(names, self.dropout)).train()
        config = copy.deepcopy(self.config)
        config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
        return TLMForMaskedLM(config)


@dataclass
class _Workshop:
    """What a trainer of this run is made from.

    Args:
        options: of the run.
        arguments: Trainer's options but for the number of steps.
        encoder: what training starts from.
        tokenizer: the model's.
        texts: token ids to train on.
        held_out: token ids for the loss on fixed masks.
    """

    options: PretrainOptions
    arguments: PretrainingArguments
    encoder: _Encoder
    tokenizer: PreTrainedTokenizerBase
    texts: TokenTable
    held_out: TokenTable

    @property
    def batch_size(self) -> int:
        """Texts per optimizer step."""
        return rows_per_step(self.arguments)

    def build_trainer(self, steps: int, output_dir: str, *, trial: bool = False) -> "PretrainTrainer":
        """The run's trainer, or with `trial` one of the same work without a word, for a time budget."""
        schedule, seed = self.options.schedule, self.arguments.seed
        items = steps * self.batch_size
        arguments = copy.copy(self.arguments)
        arguments.max_steps, arguments.output_dir = steps, output_dir
        if trial:
            arguments.report_to, arguments.disable_tqdm = [], True  # type: ignore[assignment]
        set_seed(seed)
        model = self.encoder.build(self.tokenizer)
        if schedule.unigram_bias:
            model.cls.predictions.bias.data.copy_(unigram_bias(self.texts, len(self.tokenizer), self.tokenizer))
        trainer = PretrainTrainer(
            schedule=schedule,
            model=model,
            args=arguments,
            train_dataset=PretrainingSchedule(
                self.texts, items, self.batch_size, seed, group_by_length=schedule.group_by_length
            ),
            eval_dataset=[],  # evaluation is the scorer's
            data_collator=MaskingCollator(
                self.tokenizer,
                schedule.mlm_probability,
                seed,
                whole_word=self.options.masking.whole_word_masking,
                final_mlm_probability=schedule.final_mlm_probability,
                num_items=items,
            ),
            processing_class=self.tokenizer,
            scorer=lambda scored: masked_lm_score(scored, self.tokenizer, self.held_out),
            callbacks=[] if trial else [EarlyLook(self.tokenizer, self.held_out)],
        )
        if not trial:
            LogRows.install(trainer)
        return trainer

    def describe(self, trainer: "PretrainTrainer", done: int) -> dict[str, Any]:
        """What the results say of the encoder after so many steps; every process scores it."""
        model, items = trainer.model, done * self.batch_size
        return {
            "model": self.encoder.name,
            "corpus": source_name(self.options.corpus.corpus),
            "parameters": model.num_parameters(),
            "hidden_size": model.config.hidden_size,
            "num_hidden_layers": model.config.num_hidden_layers,
            "vocab_size": model.config.vocab_size,
            "max_length": self.options.model.max_length or model.config.max_position_embeddings,
            "steps": done,
            "texts": len(self.texts),
            "epochs": items / len(self.texts),
            "tokens_per_epoch": int(self.texts.lengths.sum(dtype=np.int64)),
            "padding_share": trainer.train_dataset.padding_share(trainer.args.train_batch_size, 0, items),
            "held_out": masked_lm_score(model, self.tokenizer, self.held_out),
            "speed": trainer.clock.summary(),
            "history": trainer.state.log_history,
        }


def _choose_steps(workshop: _Workshop, run: Run, started: float) -> int:
    """Number of optimizer steps: as given, from the epochs, or what fits into the time budget."""
    arguments, budget = workshop.arguments, workshop.options.masking.time_budget
    steps = arguments.max_steps
    if budget is not None:
        steps = decide_steps(
            run.folder,
            parse_duration(budget),
            lambda trial_steps, folder: workshop.build_trainer(trial_steps, folder, trial=True),
            eval_steps=int(arguments.eval_steps or 1),
            save_steps=int(arguments.save_steps),
            started=started,
        )
    elif steps < 0:
        steps = math.ceil(arguments.num_train_epochs * len(workshop.texts) / workshop.batch_size)
    try:
        check_steps(workshop.options.output.snapshot_steps, steps)
    except UserError:
        if budget is None:  # else the number of steps is decided, and the folder keeps it
            run.discard()
        raise
    return steps


def unigram_bias(texts: TokenTable, vocab_size: int, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """log((n + 1) / (N + vocab_size)) for a token seen n times among N: float32 (vocab_size,).

    Special tokens count as never seen: they are never to be predicted. With small initial weights a model with this
    bias guesses the share of each token, whose loss is the entropy of the tokens.
    """
    counts = texts.counts(vocab_size)
    counts[tokenizer.all_special_ids] = 0
    return torch.from_numpy(np.log((counts + 1) / (counts.sum() + vocab_size))).float()


class PretrainTrainer(RunTrainer):
    """RunTrainer with a `Schedule`, snapshots, and epochs of the corpus in its log."""

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
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer, lambda step: self.schedule.factor(step, num_training_steps)
        )
        return self.lr_scheduler

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Trainer's choice (no biases, no LayerNorms), or every parameter."""
        if self.schedule.decays_everything:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's, with epochs of the corpus and the share of padding in the batches since the last loss."""
        data: PretrainingSchedule = self.train_dataset
        if "loss" in logs:
            before = max((row["step"] for row in self.state.log_history if "padding_share" in row), default=0)
            items = (step * data.batch_size for step in (before, self.state.global_step))
            logs["padding_share"] = data.padding_share(self.args.train_batch_size, *items)
        share, self.state.epoch = self.state.epoch, self.state.global_step * data.batch_size / len(data.input_ids)
        super().log(logs, start_time)
        self.state.epoch = share
