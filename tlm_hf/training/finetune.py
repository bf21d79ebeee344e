"""Fine-tuning an encoder on a classification task, from its pre-trained weights or from scratch."""

import math
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from peft import PeftModel
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from ..data.fewrel import apply_entity_markers
from ..data.sources import facts_of
from ..data.tasks import TEXT_OPTIONS, TaskArguments, class_names, load_task_from, task_hash, text_options
from ..data.tokenization import tokenize, tokenizer_hash
from ..errors import UserError, check_range
from ..evaluation.metrics import classification_metrics
from ..evaluation.scoring import predict_logits
from ..loading import load_for_finetuning, load_matching_tokenizer, read_encoder_config, weights_hash
from ..runs.output_folder import Run
from ..runs.provenance import portable_path
from .adapters import ADAPTER, add_adapter, merged_copy, save_adapter, trainable_parameters
from .pretrain_options import LARGEST_SEED, check_report_to
from .processes import choose_precision, report_processes, stays_on_cpu
from .trainer import RunTrainer

SCHEDULES: dict[str, dict[str, Any]] = {
    "tlm": {
        **{"num_train_epochs": 8.0, "batch_size": 32, "learning_rate": 1e-3, "warmup_share": 0.1},
        **{"weight_decay": 0.01, "max_grad_norm": 1.0, "dropout": 0.1},
    },
    "paper": {
        **{"num_train_epochs": 50.0, "batch_size": 32, "learning_rate": 5e-5, "warmup_share": 0.0},
        **{"weight_decay": 0.01, "max_grad_norm": 0.0, "dropout": 0.1},
    },
}
"""What options are where they are not given. `paper` (the authors' settings) also decays every weight, biases and
LayerNorms included, and lowers the learning rate once an epoch; `tlm` decays matrices alone and lowers it each step."""


@dataclass
class FinetuneArguments(TaskArguments):
    """Options of `tlm finetune`."""

    model: str = field(default="", metadata={"help": "Pre-trained encoder: folder or Hub name."})
    models: list[str] = field(
        default_factory=list, metadata={"help": "Several encoders in place of --model: OUTPUT/member-k from each."}
    )
    output_dir: str = field(default="", metadata={"help": "Output folder; with the same one the run continues."})
    from_scratch: bool = field(default=False, metadata={"help": "Same architecture and tokenizer, new weights."})
    schedule: str = field(
        default="tlm", metadata={"help": "Settings of what is not given: tlm (ours) or paper (the authors')."}
    )
    num_train_epochs: float | None = field(default=None, metadata={"help": "Passes over the training split (8 or 50)."})
    batch_size: int | None = field(default=None, metadata={"help": "Texts per optimizer step (32)."})
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate (1e-3 or 5e-5; tune it for deep encoders)."}
    )
    warmup_share: float | None = field(
        default=None, metadata={"help": "Share of the steps with rising learning rate (0.1 or 0)."}
    )
    weight_decay: float | None = field(default=None, metadata={"help": "AdamW's (0.01)."})
    max_grad_norm: float | None = field(default=None, metadata={"help": "Gradient clipping (1, or 0 for none)."})
    dropout: float | None = field(default=None, metadata={"help": "Hidden, attention and classifier dropout (0.1)."})
    lora_rank: int | None = field(
        default=None, metadata={"help": "Train adapters of this rank, pooler and classifier alone (LoRA)."}
    )
    lora_alpha: float | None = field(default=None, metadata={"help": "Adapters' scale times rank; default: 2 x rank."})
    lora_targets: list[str] = field(
        default_factory=lambda: ["query", "value"], metadata={"help": "Layers with adapters, or all-linear."}
    )
    initializer_range: float | None = field(
        default=None, metadata={"help": "With --from-scratch: standard deviation of new weights (the encoder's)."}
    )
    save_logits: bool = field(
        default=False, metadata={"help": "Also logits.npz: validation and test logits with their labels."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the new weights, order and dropout."})
    logging_steps: int = field(default=50, metadata={"help": "Steps between log lines."})
    report_to: str = field(default="none", metadata={"help": "tensorboard, trackio or wandb."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads; default: torch's choice."})
    workers: int | None = field(
        default=None, metadata={"help": "With --models: members side by side; default: one for each CPU thread."}
    )
    bf16: str = field(
        default="auto",
        metadata={"nargs": "?", "const": "true", "help": "bfloat16 autocast: true, false, or auto (where it is fast)."},
    )
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU even where there is a GPU."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar (for logs)."})


NEW = "new"
"""What a fine-tuning from scratch records in place of the hash of the weights that it started from."""
LOGITS_FILE = "logits.npz"
"""`validation` and `test`, float32 (texts, classes), and `validation_labels`, `test_labels`, int (texts,)."""
NOT_DECISIVE = (
    *("output_dir", "report_to", "logging_steps", "disable_tqdm", "data_root", "num_threads", "workers", "save_logits"),
    *("model", "models", "task"),  # they count by their weights and texts, wherever they lie
    *("task_path", *TEXT_OPTIONS),  # by the texts that they choose
)


def check_arguments(arguments: FinetuneArguments) -> FinetuneArguments:
    """Refuse impossible options before any work; returns them with the schedule's values where none was given.

    Raises:
        UserError: one sentence that names the option.
    """
    if arguments.schedule not in SCHEDULES:
        raise UserError(f"--schedule is {arguments.schedule!r}: choose {' or '.join(SCHEDULES)}.")
    values = SCHEDULES[arguments.schedule]
    arguments = replace(
        arguments, **{name: value for name, value in values.items() if getattr(arguments, name) is None}
    )
    if arguments.num_train_epochs is None or arguments.num_train_epochs <= 0:
        raise UserError(f"--num-train-epochs is {arguments.num_train_epochs}: give more than 0.")
    check_range(arguments, 1, math.inf, "batch_size", "logging_steps", "num_threads", "lora_rank", "workers")
    check_range(arguments, 0, 1, "warmup_share", "dropout")
    check_range(arguments, 0, math.inf, "learning_rate", "weight_decay", "max_grad_norm", "lora_alpha")
    check_range(arguments, 0, math.inf, "initializer_range")
    if arguments.initializer_range is not None and not arguments.from_scratch:
        raise UserError("--initializer-range is that of new weights: add --from-scratch, or leave it out.")
    check_range(arguments, 0, LARGEST_SEED, "seed")
    check_report_to(arguments.report_to)
    choose_precision(arguments.bf16, arguments.use_cpu)
    if arguments.lora_rank is None:
        if arguments.lora_alpha is not None:
            raise UserError("--lora-alpha scales the adapters of --lora-rank: give that as well, or neither.")
        return arguments
    if arguments.from_scratch:
        raise UserError("--lora-rank adapts pre-trained weights, and --from-scratch has none: leave one of them out.")
    if arguments.entity_markers == "added":
        raise UserError(
            "--lora-rank leaves the embeddings as they are, those of added markers untrained: take "
            "--entity-markers text."
        )
    return replace(arguments, lora_alpha=arguments.lora_alpha or 2.0 * arguments.lora_rank)


def decisive_options(arguments: FinetuneArguments) -> dict[str, Any]:
    """The options, as `check_arguments` returns them, that decide the weights."""
    left_out = {"lora_rank", "lora_alpha", "lora_targets"} if arguments.lora_rank is None else set()
    options = asdict(arguments).items()
    chosen = {key: value for key, value in options if key not in NOT_DECISIVE and key not in left_out}
    return chosen | {"bf16": choose_precision(arguments.bf16, arguments.use_cpu)}


def finetune(arguments: FinetuneArguments) -> dict[str, Any]:
    """Fine-tune a classifier, choose the epoch on validation, score it once on test.

    Args:
        arguments: the options.

    Returns:
        The results as written: `test` and `validation` metrics (accuracy, macro F1, loss in nats), chosen epoch.

    Raises:
        UserError: bad input, or an output folder that belongs to another run.
        KeyboardInterrupt: interrupted, after a checkpoint was saved.
    """
    if not arguments.model or not arguments.output_dir:
        raise UserError("finetune needs --model (a pre-trained encoder) and --output-dir.")
    arguments = check_arguments(arguments)
    if arguments.num_threads is not None:
        torch.set_num_threads(arguments.num_threads)
    fields = read_encoder_config(arguments.model, needs_weights=not arguments.from_scratch)
    tokenizer = load_matching_tokenizer(arguments.model, None, fields["vocab_size"])
    limit = fields["max_position_embeddings"]
    if tokenizer.model_max_length > limit:
        tokenizer.model_max_length = limit
    task = load_task_from(arguments)
    set_seed(arguments.seed)
    # Before the output folder is taken, so that a broken model leaves nothing there.
    model: PreTrainedModel | PeftModel = load_for_finetuning(
        arguments.model,
        class_names(task),
        dropout=arguments.dropout or 0.0,
        from_scratch=arguments.from_scratch,
        initializer_range=arguments.initializer_range,
    )
    facts = facts_of(task["train"])
    apply_entity_markers(facts, tokenizer, model)
    if arguments.lora_rank is not None:
        model = add_adapter(model, arguments.lora_rank, arguments.lora_alpha or 1.0, arguments.lora_targets)
    settings = decisive_options(arguments)
    settings |= {
        "added_tokens": facts.get("added_tokens"),  # ordinary and added markers make the same texts
        "weights": NEW if arguments.from_scratch else weights_hash(arguments.model),
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "task_sha256": task_hash(task),
        "threads": torch.get_num_threads(),
    }
    run = Run(arguments.output_dir, "finetune", settings)
    if run.results is not None:
        return run.results
    return _train(arguments, run, model, task, tokenizer)


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    metrics = classification_metrics(np.asarray(prediction.predictions), np.asarray(prediction.label_ids))
    return {"accuracy": metrics["accuracy"], "macro_f1": metrics["macro_f1"]}


def _train(
    arguments: FinetuneArguments,
    run: Run,
    model: PreTrainedModel | PeftModel,
    task: datasets.DatasetDict,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    """Build the Trainer, train from the last checkpoint, and finish the run."""
    options = TrainingArguments(
        output_dir=arguments.output_dir,
        num_train_epochs=arguments.num_train_epochs,
        per_device_eval_batch_size=128,
        learning_rate=arguments.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=arguments.warmup_share,
        weight_decay=arguments.weight_decay,
        max_grad_norm=arguments.max_grad_norm,
        seed=arguments.seed,
        bf16=choose_precision(arguments.bf16, arguments.use_cpu),
        use_cpu=stays_on_cpu(arguments.use_cpu),
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        logging_steps=arguments.logging_steps,
        report_to=arguments.report_to,
        disable_tqdm=arguments.disable_tqdm,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    parts = options.world_size * max(1, options.n_gpu)
    if arguments.batch_size % parts:
        raise UserError(
            f"--batch-size {arguments.batch_size} cannot be split over {parts} processes: choose a multiple of {parts}."
        )
    options.per_device_train_batch_size = arguments.batch_size // parts
    report_processes(options)
    rows = {
        split: tokenize(task[split], tokenizer, tokenizer.model_max_length).rename_column("label", "labels")
        for split in ("train", "validation")
    }
    trainer = (_PaperTrainer if arguments.schedule == "paper" else RunTrainer)(
        model=model,
        args=options,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=_accuracy,
    )
    trained = trainable_parameters(model)
    checkpoint = run.last_checkpoint()
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = time.perf_counter() - start
    adapted = trainer.model if isinstance(trainer.model, PeftModel) else None
    # Without the autocast that Accelerate wraps around it: what is scored is what the saved model gives.
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    final = trainer.model if adapted is None else merged_copy(adapted)
    scores: dict[str, dict[str, float]] = {}
    answers: dict[str, np.ndarray] = {}
    for split in ("validation", "test"):
        logits, _ = predict_logits(final, tokenizer, task[split]["text"][:])
        answers |= {split: logits, f"{split}_labels": np.array(task[split]["label"][:])}
        scores[split] = classification_metrics(logits, answers[f"{split}_labels"])
    results = {
        "model": portable_path(arguments.model),
        "task": portable_path(arguments.task),
        "task_options": text_options(arguments),
        "from_scratch": arguments.from_scratch,
        "schedule": arguments.schedule,
        "parameters": final.num_parameters(),
        "trainable_parameters": trained,
        "labels": class_names(task),
        "rows": {split: len(task[split]) for split in task},
        **scores,
        "best_step": trainer.state.best_global_step,
        "steps": trainer.state.global_step,
        "speed": trainer.clock.summary(),
        "seconds_since_start_or_continuation": seconds,
        "history": trainer.state.log_history,
    }

    def save(folder: Path) -> None:
        final.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if arguments.save_logits:
            np.savez_compressed(folder / LOGITS_FILE, allow_pickle=False, **answers)
        if adapted is not None:
            # Of a run that was killed between its model and its results, which are written now.
            shutil.rmtree(run.folder / ADAPTER, ignore_errors=True)
            save_adapter(adapted, folder / ADAPTER, arguments.model, class_names(task))

    return run.finish(save, results) if options.should_save else results


class _PaperTrainer(RunTrainer):
    """RunTrainer with the authors' optimization: every weight decays, and the rate falls at the end of each epoch."""

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        return [name for name, _ in model.named_parameters()]

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """In epoch e of E (from 0) the rate is its peak's share 1 - e/E, after a warm-up where one was asked for."""
        if self.lr_scheduler is None:  # type: ignore[has-type]
            texts_per_step = self.args.train_batch_size * self.args.world_size
            steps_per_epoch = math.ceil(len(self.train_dataset) / texts_per_step)
            epochs, warmup = self.args.num_train_epochs, self.args.get_warmup_steps(num_training_steps)

            def share(step: int) -> float:
                return min(1.0, step / max(1, warmup)) if step < warmup else 1 - step // steps_per_epoch / epochs

            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, share)
            self._created_lr_scheduler = True
        return self.lr_scheduler
