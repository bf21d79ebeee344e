"""Fine-tuning an encoder on a classification task, from its pre-trained weights or from scratch."""

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from ..data.fewrel import apply_entity_markers
from ..data.subsets import facts_of
from ..data.tasks import TaskArguments, class_names, load_task_from, task_hash
from ..data.tokenization import tokenize, tokenizer_hash
from ..errors import UserError, check_range
from ..evaluation.metrics import classification_metrics
from ..evaluation.scoring import predict_logits
from ..loading import load_for_finetuning, load_matching_tokenizer, read_encoder_config, weights_hash
from ..provenance import portable_path
from ..runs import Run
from .trainer import LARGEST_SEED, RunTrainer, check_report_to, stays_on_cpu


@dataclass
class FinetuneArguments(TaskArguments):
    """Options of `tlm finetune`."""

    model: str = field(default="", metadata={"help": "Pre-trained encoder: folder or Hub name."})
    output_dir: str = field(default="", metadata={"help": "Output folder; with the same one the run continues."})
    from_scratch: bool = field(default=False, metadata={"help": "Same architecture and tokenizer, new weights."})
    num_train_epochs: float = field(default=8.0, metadata={"help": "Passes over the training split."})
    batch_size: int = field(default=32, metadata={"help": "Texts per optimizer step."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate (tune it for deep encoders)."})
    warmup_share: float = field(default=0.1, metadata={"help": "Share of the steps with rising learning rate."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's."})
    dropout: float = field(default=0.1, metadata={"help": "Hidden, attention and classifier dropout."})
    seed: int = field(default=0, metadata={"help": "Seed of the new weights, order and dropout."})
    logging_steps: int = field(default=50, metadata={"help": "Steps between log lines."})
    report_to: str = field(default="none", metadata={"help": "tensorboard, trackio or wandb."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads; default: torch's choice."})
    bf16: bool = field(default=False, metadata={"help": "bfloat16 autocast (GPU, or CPU with avx512_bf16)."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU even where there is a GPU."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar (for logs)."})


NOT_DECISIVE = (
    *("output_dir", "report_to", "logging_steps", "disable_tqdm", "data_root", "num_threads"),
    *("model", "task"),  # they count by their weights and texts, wherever they lie
    *("task_path", "title_column", "entity_markers", "all_rows", "shortfall"),  # by the texts that they choose
)


def check_arguments(arguments: FinetuneArguments) -> None:
    """Refuse impossible options before any work.

    Raises:
        UserError: one sentence that names the option.
    """
    if arguments.num_train_epochs <= 0:
        raise UserError(f"--num-train-epochs is {arguments.num_train_epochs}: give more than 0.")
    check_range(arguments, 1, math.inf, "batch_size", "logging_steps", "num_threads")
    check_range(arguments, 0, 1, "warmup_share", "dropout")
    check_range(arguments, 0, math.inf, "learning_rate", "weight_decay")
    check_range(arguments, 0, LARGEST_SEED, "seed")
    check_report_to(arguments.report_to)


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
    check_arguments(arguments)
    if arguments.num_threads is not None:
        torch.set_num_threads(arguments.num_threads)
    fields = read_encoder_config(arguments.model)
    tokenizer = load_matching_tokenizer(arguments.model, None, fields["vocab_size"])
    limit = fields["max_position_embeddings"]
    if tokenizer.model_max_length > limit:
        tokenizer.model_max_length = limit
    task = load_task_from(arguments)
    set_seed(arguments.seed)
    # Before the output folder is taken, so that a broken model leaves nothing there.
    model = load_for_finetuning(
        arguments.model, class_names(task), dropout=arguments.dropout, from_scratch=arguments.from_scratch
    )
    facts = facts_of(task["train"])
    apply_entity_markers(facts, tokenizer, model)
    settings = {key: value for key, value in asdict(arguments).items() if key not in NOT_DECISIVE}
    settings |= {
        "added_tokens": facts.get("added_tokens"),  # ordinary and added markers make the same texts
        "weights": "new" if arguments.from_scratch else weights_hash(arguments.model),
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
    model: PreTrainedModel,
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
        seed=arguments.seed,
        bf16=arguments.bf16,
        use_cpu=stays_on_cpu(arguments.use_cpu, arguments.bf16),
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
    rows = {
        split: tokenize(task[split], tokenizer, tokenizer.model_max_length).rename_column("label", "labels")
        for split in ("train", "validation")
    }
    trainer = RunTrainer(
        model=model,
        args=options,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=_accuracy,
    )
    checkpoint = run.last_checkpoint()
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.interrupt.interrupted:
        raise KeyboardInterrupt
    seconds = time.perf_counter() - start
    scores = {}
    for split in ("validation", "test"):
        logits, _ = predict_logits(trainer.model, tokenizer, task[split]["text"][:])
        scores[split] = classification_metrics(logits, np.array(task[split]["label"][:]))
    results = {
        "model": portable_path(arguments.model),
        "task": portable_path(arguments.task),
        "from_scratch": arguments.from_scratch,
        "parameters": trainer.model.num_parameters(),
        "labels": class_names(task),
        "rows": {split: len(task[split]) for split in task},
        **scores,
        "best_step": trainer.state.best_global_step,
        "steps": trainer.state.global_step,
        "seconds_since_start_or_continuation": seconds,
        "history": trainer.state.log_history,
    }

    def save(folder: Path) -> None:
        trainer.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return run.finish(save, results) if options.should_save else results
