"""Masked-language-model pre-training of one encoder with transformers.Trainer (Accelerate underneath)."""

import copy
import functools
import math
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, set_seed

from ..data.cooccurrence import count_rows
from ..data.corpora import corpus_hash, load_corpus
from ..data.masking import MaskingCollator, PretrainingSchedule
from ..data.tokenization import SHORT, Windows, load_tokenizer, tokenize_once, tokenizer_hash, train_wordpiece
from ..errors import UserError
from ..evaluation.scoring import held_out_masks, masked_lm_score
from ..loading import load_masked_lm, load_matching_tokenizer, read_encoder_config, weights_hash
from ..models.configuration_tlm import TLMConfig
from ..models.modeling_tlm import TLMForMaskedLM
from ..recipes import find_size
from ..runs.atomic_files import Json
from ..runs.output_folder import Run
from ..runs.provenance import portable_path
from .callbacks import LogRows
from .initialization import start_from_counts, start_with_neighbours
from .options import NOT_GIVEN, check_length, report_processes, rows_per_step, source_name
from .pretrain_options import CorpusOptions, PretrainingArguments, PretrainOptions, check_memory
from .time_budget import decide_steps, parse_duration
from .trainer import RunTrainer, prepare_push

LONGEST_COUNTED = 512  # tokens of a text


def pretrain(**options: Any) -> Json:
    """Pre-train an encoder with new weights or continue an existing one; an interrupted run continues.

        pretrain(corpus="corpus.txt", size="quickstart", output_dir="encoder", max_steps=3000)
        pretrain(corpus=dataset, model="google-bert/bert-base-uncased", output_dir="adapted", max_steps=1000)

    Options are those of `tlm pretrain`; `corpus` may be a `datasets.Dataset` or `DatasetDict`. Returns the results as
    written beside the model: loss on fixed masks (nats per masked token), texts, tokens, speed. Raises UserError for
    bad input or the output folder of another run; KeyboardInterrupt after it saved a checkpoint.
    """
    started = time.perf_counter()
    chosen = PretrainOptions.read(options)
    arguments = chosen.arguments()
    if chosen.output.num_members is not None:
        raise UserError("--num-members is for several members: call pretrain_members.")
    if chosen.output.num_threads is not None:
        torch.set_num_threads(chosen.output.num_threads)

    # 1. Model: a recipe's configuration or an existing encoder, and its tokenizer where there is one
    training = _Pretraining(chosen, arguments)
    push = prepare_push(chosen.training, arguments)

    # 2. Data
    corpus = load_pretraining_corpus(chosen.corpus, chosen.model.size)
    report_processes(arguments)
    settings = training.settings() | {"corpus_sha256": corpus_hash(corpus), "threads": torch.get_num_threads()}
    run = Run(arguments.output_dir, "pretrain", settings)
    if run.results is not None:
        push(run.folder)
        return run.results
    try:
        training.prepare(corpus)
        steps = training.choose_steps(run.folder, started)
    except UserError:
        run.discard()
        raise

    # 3. Train
    trainer = training.build_trainer(steps, arguments.output_dir)
    trainer.train(resume_from_checkpoint=True)

    # 4. Save
    def save(folder: Path) -> None:
        trainer.model.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)

    results = run.finish(save, training.describe(trainer, steps))
    push(run.folder)
    return results


def load_pretraining_corpus(options: CorpusOptions, size: str) -> datasets.DatasetDict:
    """The corpus that the options choose: Wikipedia in the size's number of texts, any other whole, unless asked."""
    count = options.num_texts
    if count is None and isinstance(options.corpus, str) and options.corpus == "wikipedia":
        count = min(find_size(size).num_texts, 90_000)  # a tenth of the local paragraphs is enough held-out text
    return load_corpus(
        options.corpus,
        num_texts=count,
        validation_texts=options.validation_texts,
        text_column=options.text_column,
        config=options.corpus_config,
        revision=options.corpus_revision,
        root=options.data_root,
        seed=options.subset_seed,
        unit=options.text_unit,
        written=options,
    )


class _Pretraining:
    """What training starts from, and what its trainer is built from; UserError for a tokenizer that does not fit."""

    tokenizer: Any = None  # trained on the corpus where there is none

    def __init__(self, options: PretrainOptions, arguments: PretrainingArguments) -> None:
        self.options, self.arguments = options, arguments
        model, self.source = options.model, options.model.model
        self.batch_size = rows_per_step(arguments)
        if self.source is not None:
            fields = read_encoder_config(self.source)
            self.name = portable_path(self.source)
            self.tokenizer = load_matching_tokenizer(self.source, fields["vocab_size"])
            self.config = TLMConfig.from_dict({**fields, "model_type": TLMConfig.model_type})
            check_length(model.max_length, self.source, self.config.max_position_embeddings)
            check_memory(options, self.config)
            return
        self.name, self.config = f"{model.recipe}@{model.size}", options.config()
        if model.tokenizer is not None:
            self.tokenizer = load_tokenizer(model.tokenizer, self.config.max_position_embeddings)
            if model.vocab_size not in (None, len(self.tokenizer)):
                words = f"--vocab-size is {model.vocab_size} but the tokenizer {model.tokenizer!r} has"
                raise UserError(f"{words} {len(self.tokenizer)} tokens: leave --vocab-size out.")

    def settings(self) -> Json:
        """What a run records, but for the corpus."""
        settings: Json = self.options.settings() | {"batch_size": self.batch_size}
        if self.source is not None:
            settings["weights"] = weights_hash(self.source)
        return settings if self.tokenizer is None else settings | {"tokenizer_sha256": tokenizer_hash(self.tokenizer)}

    def prepare(self, corpus: datasets.DatasetDict) -> None:
        """Train the tokenizer where there is none, tokenize, and count; raises UserError for too little text."""
        model, config, longest = self.options.model, self.config, self.config.max_position_embeddings
        if self.tokenizer is None:
            letters: Json = {"cased": model.cased, "keep_accents": model.keep_accents}
            self.tokenizer = train_wordpiece(corpus["train"]["text"], config.vocab_size, longest, **letters)
        tokenizer, length = self.tokenizer, model.max_length or longest
        tokens, held_out_tokens = (tokenize_once(corpus[split], tokenizer) for split in ("train", "validation"))
        split, name = self.options.corpus.text_windows == "all", repr(self.options.corpus.corpus)
        self.texts = Windows(tokens, tokenizer, length, split=split)
        if not len(self.texts):
            raise UserError(f"The corpus {name} has no text of {SHORT} tokens: leave --text-windows first out.")
        self.counts = self.texts.counts(len(tokenizer))  # of each token in the training texts, int64 (vocabulary,)
        self.text_facts = self.texts.facts(int(self.counts[tokenizer.unk_token_id]))
        self.text_facts.say_windows(split, len(self.texts))
        self.text_facts.warn_of_unknown()
        self.held_out = Windows(held_out_tokens, tokenizer, length, split=False, shortest=0)
        if held_out_masks(tokenizer, self.held_out) is None:
            raise UserError(f"The texts held out of {name} have no token to mask: give more text.")
        self.rows = None
        if self.options.schedule.initialization == "counts":
            whole = Windows(tokens, tokenizer, LONGEST_COUNTED, split=False, shortest=0)
            self.rows = count_rows(whole, len(tokenizer), config.hidden_size, tokenizer.all_special_ids)

    def choose_steps(self, folder: Path, started: float) -> int:
        """Number of optimizer steps: as given, from the epochs, or what fits into the time budget."""
        if (budget := self.options.masking.time_budget) is not None:
            build = functools.partial(self.build_trainer, trial=True)
            return decide_steps(folder, parse_duration(budget), build, started)
        if self.arguments.max_steps != NOT_GIVEN:
            return self.arguments.max_steps
        return math.ceil(self.arguments.num_train_epochs * len(self.texts) / self.batch_size)

    def _build_model(self) -> PreTrainedModel:
        """The model before the first step; new weights are drawn from torch's generator."""
        schedule, dropout = self.options.schedule, self.options.model.dropout
        if self.source is not None:
            names = () if dropout is None else ("hidden_dropout_prob", "attention_probs_dropout_prob")
            return load_masked_lm(self.source, **dict.fromkeys(names, dropout)).train()
        config = copy.deepcopy(self.config)
        config.vocab_size, config.pad_token_id = len(self.tokenizer), self.tokenizer.pad_token_id
        model = TLMForMaskedLM(config)
        if self.rows is not None:
            start_from_counts(model, self.rows)
        if schedule.neighbour_heads:
            start_with_neighbours(model)
        if schedule.unigram_bias:  # log((n + 1) / (N + V)) of tokens seen n of N times, special ones never
            counts = self.counts.copy()
            counts[list(self.tokenizer.all_special_ids)] = 0
            bias = torch.from_numpy(np.log((counts + 1) / (counts.sum() + len(counts))))
            model.cls.predictions.bias.data.copy_(bias.float())
        return model

    def build_trainer(self, steps: int, output_dir: str, *, trial: bool = False) -> RunTrainer:
        """The run's trainer, or with `trial` one of the same work that nobody is told of, for a time budget."""
        schedule, seed = self.options.schedule, self.arguments.seed
        arguments = copy.copy(self.arguments)
        arguments.max_steps, arguments.output_dir = steps, output_dir
        if trial:
            arguments.report_to, arguments.disable_tqdm = [], True  # type: ignore[assignment]
        set_seed(seed)
        cls_weights = np.maximum(self.counts, 1) ** -0.5 if schedule.cls_objective else None
        count, grouped = steps * self.batch_size, schedule.group_by_length
        trainer = RunTrainer(
            rate=None if schedule.parts is None else schedule.factor,
            decays_everything=schedule.decays_everything,
            model=self._build_model(),
            args=arguments,
            train_dataset=PretrainingSchedule(self.texts, count, self.batch_size, seed, grouped),
            eval_dataset=[],  # evaluation is the scorer's
            data_collator=MaskingCollator(self.tokenizer, schedule.mlm_probability, seed, cls_weights=cls_weights),
            processing_class=self.tokenizer,
            scorer=lambda scored: masked_lm_score(scored, self.tokenizer, self.held_out),
        )
        LogRows(trainer)
        return trainer

    def describe(self, trainer: RunTrainer, steps: int) -> Json:
        """What the results say; every process scores the encoder."""
        model = trainer.without_autocast()
        return {
            "model": self.name,
            "corpus": source_name(self.options.corpus.corpus),
            "parameters": model.num_parameters(),
            **{name: getattr(model.config, name) for name in ("hidden_size", "num_hidden_layers", "vocab_size")},
            "max_length": self.options.model.max_length or model.config.max_position_embeddings,
            "steps": steps,
            "texts": len(self.texts),
            "text_facts": vars(self.text_facts),
            "epochs": steps * self.batch_size / len(self.texts),
            "tokens_per_epoch": int(self.texts.lengths.sum(dtype=np.int64)),
            "held_out": masked_lm_score(model, self.tokenizer, self.held_out),
            "speed": trainer.clock.summary(),
            "history": trainer.state.log_history,
            "seconds_since_start_or_continuation": time.perf_counter() - trainer.started,
            "continued_from_step": trainer.continued_from_step,
        }
