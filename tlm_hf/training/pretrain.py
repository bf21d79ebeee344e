"""Masked-language-model pre-training of one encoder with transformers.Trainer (Accelerate underneath)."""

import copy
import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..data.cooccurrence import count_rows
from ..data.corpora import corpus_hash, load_corpus
from ..data.masking import MaskingCollator, PretrainingSchedule
from ..data.tokenization import load_tokenizer, tokenizer_hash, train_wordpiece
from ..data.windows import SHORT, SPECIAL, TextFacts, Windows, tokenize_once
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
from .hub_push import prepare_push
from .initialization import start_from_counts, start_with_neighbours
from .options import NOT_GIVEN, check_length, rows_per_step, source_name
from .pretrain_options import CorpusOptions, PretrainingArguments, PretrainOptions, check_memory
from .processes import report_processes
from .time_budget import decide_steps, parse_duration
from .trainer import RunTrainer

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
    encoder = _Encoder.from_options(chosen)
    push = prepare_push(chosen.training, arguments)

    # 2. Data
    corpus = load_pretraining_corpus(chosen.corpus, chosen.model.size)
    report_processes(arguments)
    settings = chosen.settings() | encoder.settings()
    settings |= {"batch_size": rows_per_step(arguments), "corpus_sha256": corpus_hash(corpus)}
    run = Run(arguments.output_dir, "pretrain", settings | {"threads": torch.get_num_threads()})
    if run.results is not None:
        push(run.folder)
        return run.results
    try:
        plan = _Plan.prepare(chosen, arguments, encoder, corpus)
    except UserError:
        run.discard()
        raise

    # 3. Train
    steps = _choose_steps(plan, run, started)
    trainer = plan.build_trainer(steps, arguments.output_dir)
    trainer.train(resume_from_checkpoint=run.last_checkpoint())

    # 4. Save
    def save(folder: Path) -> None:
        trainer.model.save_pretrained(folder)
        plan.tokenizer.save_pretrained(folder)

    results = plan.describe(trainer, steps)
    if arguments.should_save:
        results = run.finish(save, results)
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


@dataclass
class _Encoder:
    """What training starts from: new weights, or those of `source`; a tokenizer of None is trained on the corpus."""

    name: str
    config: TLMConfig
    tokenizer: PreTrainedTokenizerBase | None
    source: str | None = None
    dropout: float | None = None

    @classmethod
    def from_options(cls, options: PretrainOptions) -> "_Encoder":
        """Raises UserError for a broken folder or a tokenizer that does not fit."""
        model = options.model
        if model.model is not None:
            fields = read_encoder_config(model.model)
            tokenizer = load_matching_tokenizer(model.model, None, fields["vocab_size"])
            config = TLMConfig.from_dict({**fields, "model_type": TLMConfig.model_type})
            check_length(model.max_length, model.model, config.max_position_embeddings)
            check_memory(options, config)
            return cls(portable_path(model.model), config, tokenizer, model.model, model.dropout)
        config, tokenizer = options.config(), None
        if model.tokenizer is not None:
            tokenizer = load_tokenizer(model.tokenizer, config.max_position_embeddings)
            if model.vocab_size not in (None, len(tokenizer)):
                words = f"--vocab-size is {model.vocab_size} but the tokenizer {model.tokenizer!r} has {len(tokenizer)}"
                raise UserError(f"{words} tokens: leave --vocab-size out.")
        return cls(f"{model.recipe}@{model.size}", config, tokenizer)

    def settings(self) -> Json:
        """What a run records of it beside the options."""
        settings = {} if self.source is None else {"weights": weights_hash(self.source)}
        return settings if self.tokenizer is None else settings | {"tokenizer_sha256": tokenizer_hash(self.tokenizer)}

    def build(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """The model before the first step; new weights are drawn from torch's generator."""
        if self.source is not None:
            names = () if self.dropout is None else ("hidden_dropout_prob", "attention_probs_dropout_prob")
            return load_masked_lm(self.source, **dict.fromkeys(names, self.dropout)).train()
        config = copy.deepcopy(self.config)
        config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
        return TLMForMaskedLM(config)


@dataclass
class _Plan:
    """What the run's trainer, and the trial of a time budget, are built from."""

    options: PretrainOptions
    arguments: PretrainingArguments
    encoder: _Encoder
    tokenizer: PreTrainedTokenizerBase
    texts: Windows
    held_out: Windows
    text_facts: TextFacts
    counts: np.ndarray  # of each token in the training texts, int64 (vocabulary,)
    rows: np.ndarray | None  # from counts, float32 (vocabulary, hidden), where new weights start from them
    counting_cpu_seconds: float

    @classmethod
    def prepare(
        cls, options: PretrainOptions, arguments: PretrainingArguments, encoder: _Encoder, corpus: datasets.DatasetDict
    ) -> "_Plan":
        """Train the tokenizer where there is none, tokenize, and count; raises UserError for too little text."""
        config, model = encoder.config, options.model
        longest, tokenizer = config.max_position_embeddings, encoder.tokenizer
        if tokenizer is None:
            letters: Json = {"cased": model.cased, "keep_accents": model.keep_accents}
            tokenizer = train_wordpiece(corpus["train"]["text"], config.vocab_size, longest, **letters)
        length = model.max_length or longest
        tokens, held_out_tokens = (tokenize_once(corpus[split], tokenizer) for split in ("train", "validation"))
        split = options.corpus.text_windows == "all"
        texts = Windows(tokens, tokenizer, length, split=split)
        name = repr(options.corpus.corpus)
        if not len(texts):
            raise UserError(f"The corpus {name} has no text of {SHORT} tokens: leave --text-windows first out.")
        counts = texts.counts(len(tokenizer))
        facts = TextFacts.measure(tokens.lengths + SPECIAL, length, int(counts[tokenizer.unk_token_id]))
        facts.say_windows(split, len(texts))
        facts.warn_of_unknown()
        held_out = Windows(held_out_tokens, tokenizer, length, split=False, shortest=0)
        if held_out_masks(tokenizer, held_out) is None:
            raise UserError(f"The texts held out of {name} have no token to mask: give more text.")
        rows, start = None, time.process_time()
        if options.schedule.initialization == "counts":
            whole = Windows(tokens, tokenizer, LONGEST_COUNTED, split=False, shortest=0)
            rows = count_rows(whole, len(tokenizer), config.hidden_size, tokenizer.all_special_ids)
        seconds = time.process_time() - start
        return cls(options, arguments, encoder, tokenizer, texts, held_out, facts, counts, rows, seconds)

    def build_trainer(self, steps: int, output_dir: str, *, trial: bool = False) -> RunTrainer:
        """The run's trainer, or with `trial` one of the same work that nobody is told of, for a time budget."""
        schedule, seed, batch_size = self.options.schedule, self.arguments.seed, rows_per_step(self.arguments)
        arguments = copy.copy(self.arguments)
        arguments.max_steps, arguments.output_dir = steps, output_dir
        if trial:
            arguments.report_to, arguments.disable_tqdm = [], True  # type: ignore[assignment]
        set_seed(seed)
        model = self.encoder.build(self.tokenizer)
        if self.rows is not None:
            start_from_counts(model, self.rows)
        if schedule.neighbour_heads:
            start_with_neighbours(model)
        if schedule.unigram_bias:
            model.cls.predictions.bias.data.copy_(unigram_bias(self.counts, self.tokenizer.all_special_ids))
        cls_weights = np.maximum(self.counts, 1) ** -0.5 if schedule.cls_objective else None
        items = PretrainingSchedule(self.texts, steps * batch_size, batch_size, seed, schedule.group_by_length)
        trainer = RunTrainer(
            rate=None if schedule.parts is None else schedule.factor,
            decays_everything=schedule.decays_everything,
            model=model,
            args=arguments,
            train_dataset=items,
            eval_dataset=[],  # evaluation is the scorer's
            data_collator=MaskingCollator(self.tokenizer, schedule.mlm_probability, seed, cls_weights=cls_weights),
            processing_class=self.tokenizer,
            scorer=lambda scored: masked_lm_score(scored, self.tokenizer, self.held_out),
        )
        LogRows(trainer)
        return trainer

    def describe(self, trainer: RunTrainer, steps: int) -> Json:
        """What the results say; every process scores the encoder."""
        model = trainer.model
        return {
            "model": self.encoder.name,
            "corpus": source_name(self.options.corpus.corpus),
            "parameters": model.num_parameters(),
            "hidden_size": model.config.hidden_size,
            "num_hidden_layers": model.config.num_hidden_layers,
            "vocab_size": model.config.vocab_size,
            "max_length": self.options.model.max_length or model.config.max_position_embeddings,
            "steps": steps,
            "texts": len(self.texts),
            "text_facts": vars(self.text_facts),
            "epochs": steps * rows_per_step(self.arguments) / len(self.texts),
            "tokens_per_epoch": int(self.texts.lengths.sum(dtype=np.int64)),
            "held_out": masked_lm_score(model, self.tokenizer, self.held_out),
            "speed": trainer.clock.summary(),
            "counting_cpu_seconds": self.counting_cpu_seconds,
            "history": trainer.state.log_history,
            "seconds_since_start_or_continuation": time.perf_counter() - trainer.started,
            "continued_from_step": trainer.continued_from_step,
        }


def _choose_steps(plan: _Plan, run: Run, started: float) -> int:
    """Number of optimizer steps: as given, from the epochs, or what fits into the time budget."""
    arguments, budget = plan.arguments, plan.options.masking.time_budget
    if budget is not None:
        build = functools.partial(plan.build_trainer, trial=True)
        return decide_steps(run.folder, parse_duration(budget), build, started)
    if arguments.max_steps != NOT_GIVEN:
        return arguments.max_steps
    return math.ceil(arguments.num_train_epochs * len(plan.texts) / rows_per_step(arguments))


def unigram_bias(counts: np.ndarray, special_ids: Sequence[int]) -> torch.Tensor:
    """log((n + 1) / (N + V)) of tokens seen n of N times, special ones never: float32 (V,) from counts int64 (V,)."""
    counts = counts.copy()
    counts[list(special_ids)] = 0
    return torch.from_numpy(np.log((counts + 1) / (counts.sum() + len(counts)))).float()
