"""Fine-tuning an encoder on a classification task, from its pre-trained weights or from scratch."""

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy
from transformers import DataCollatorWithPadding, PreTrainedModel, TrainingArguments, set_seed
from transformers.utils import ModelOutput

from ..data.kinds import class_names, labels_of, per_label, problem_of, texts_of
from ..data.tasks import load_task_from, task_hash, text_options
from ..data.tokenization import TextFacts, tokenize, tokenizer_hash
from ..errors import UserError
from ..evaluation.metrics import HEADLINE, class_metrics, class_table, measure
from ..evaluation.scoring import predict_logits
from ..loading import load_for_finetuning, load_matching_tokenizer, read_encoder_config, weights_hash
from ..models.combination_committee import MULTI, REGRESSION, SINGLE
from ..runs.atomic_files import Json, read_json, write_text
from ..runs.checkpoints import last_whole
from ..runs.output_folder import Run, is_main_process
from ..runs.provenance import portable_path
from .callbacks import LogRows, Patience
from .finetune_options import FinetuneOptions
from .initialization import start_as_linear_model
from .options import check_length, report_processes, rows_per_step, source_name
from .trainer import RunTrainer, prepare_push

logger = logging.getLogger(__name__)
NEW = "new"  # recorded in place of the hash of the weights where there are none to start from
LOGITS_FILE = "logits.npz"  # `validation` and `test`, float32 (texts, classes), and their `..._labels`
IMBALANCED = 5  # times the rows of the smallest class that the largest may have before macro F1 chooses the epoch


def finetune(**options: Any) -> Json:
    """Fine-tune a classifier, choose the epoch on validation, score it once on test.

        finetune(model="encoder", task="reviews.csv", output_dir="classifier", num_train_epochs=4)

    Options are those of `tlm finetune`; `task` may be a `datasets.Dataset` or `DatasetDict`. Returns the results as
    written: `test` and `validation` metrics (accuracy, macro F1, loss in nats), the chosen epoch, and those of each of
    the `classes` on test. Raises UserError for bad input or the output folder of another run; KeyboardInterrupt after
    it saved a checkpoint (one process; of several none is saved then).
    """
    chosen = FinetuneOptions.read(options)
    classifier = chosen.classifier
    if not classifier.model:
        raise UserError("finetune needs an encoder: give --model, a folder or Hub name.")
    arguments = chosen.arguments()
    if chosen.output.num_threads is not None:
        torch.set_num_threads(chosen.output.num_threads)

    # 1. Data and model
    fields = read_encoder_config(classifier.model, needs_weights=not classifier.from_scratch)
    tokenizer = load_matching_tokenizer(classifier.model, fields["vocab_size"])
    limit = fields["max_position_embeddings"]
    check_length(classifier.max_length, classifier.model, limit)
    tokenizer.model_max_length = min(tokenizer.model_max_length, classifier.max_length or limit)
    task = load_task_from(chosen.task)
    check_kind(chosen, task)
    set_seed(arguments.seed)
    changes: Json = {"dropout": classifier.dropout or 0.0, "from_scratch": classifier.from_scratch}
    if classifier.initializer_range is not None:
        changes["initializer_range"] = classifier.initializer_range
    model: Any = load_for_finetuning(classifier.model, class_names(task), problem_type=problem_of(task), **changes)
    if classifier.lora_rank is not None:
        model = add_adapter(model, classifier.lora_rank)

    # 2. The output folder
    push = prepare_push(chosen.training, arguments)
    report_processes(arguments)
    settings = chosen.settings() | {"batch_size": rows_per_step(arguments), "threads": torch.get_num_threads()}
    settings |= {"tokenizer_sha256": tokenizer_hash(tokenizer), "task_sha256": task_hash(task)}
    settings["labels"] = class_names(task)
    settings["weights"] = NEW if classifier.from_scratch else weights_hash(classifier.model)
    run = Run(arguments.output_dir, "finetune", settings)
    if run.results is not None:
        if chosen.output.save_logits and not (run.folder / LOGITS_FILE).is_file():
            logger.warning("Note: %s was finished without --save-logits: for logits give another folder.", run.folder)
        push(run.folder)
        return run.results
    text_facts = TextFacts.of_task(task, tokenizer, tokenizer.model_max_length, limit)

    # 3. Train
    if classifier.head == "linear":
        start_as_linear_model(model, tokenizer, texts_of(task["train"]), scaled_labels(task, "train"))
    trainer = _build_trainer(chosen, arguments, model, task, tokenizer)
    checkpoint, patience = last_whole(run.folder), chosen.schedule.patience
    if checkpoint is not None and patience is not None:
        Patience(patience).end_again(checkpoint, arguments)
    trainer.train(resume_from_checkpoint=checkpoint)

    # 4. Score and save
    results = _score_and_save(chosen, run, trainer, task, text_facts)
    push(run.folder)
    return results


def _score_and_save(
    options: FinetuneOptions, run: Run, trainer: RunTrainer, task: datasets.DatasetDict, text_facts: TextFacts
) -> Json:
    """The results, which the main process writes with the classifier, its logits and its adapter."""
    seconds = time.perf_counter() - trainer.started
    tokenizer = trainer.processing_class
    model = trainer.without_autocast()
    adapted = model if isinstance(model, PeftModel) else None
    final = model if adapted is None else copy.deepcopy(adapted).merge_and_unload()
    problem_type, labels = problem_of(task), class_names(task)
    arrays: dict[str, np.ndarray] = {}
    if problem_type == REGRESSION:
        mean, deviation = _scale_of(task)
        final.classifier.weight.data *= deviation
        final.classifier.bias.data.mul_(deviation).add_(mean)
    for split in ("validation", "test"):
        arrays[split], _ = predict_logits(final, tokenizer, texts_of(task[split]))
        arrays[f"{split}_labels"] = labels_of(task[split])
    results = {
        "model": portable_path(options.classifier.model),
        "task": source_name(options.task.task),
        "task_options": text_options(options.task),
        "from_scratch": options.classifier.from_scratch,
        "schedule": options.schedule.schedule,
        "parameters": final.num_parameters(),
        "trainable_parameters": sum(each.numel() for each in trainer.model.parameters() if each.requires_grad),
        "labels": labels,
        "rows": {split: len(task[split]) for split in task},
        "text_facts": vars(text_facts),
        "best_step": trainer.state.best_global_step,
        "chosen_by": trainer.args.metric_for_best_model,
        "steps": trainer.state.global_step,
        "speed": trainer.clock.summary(),
        "history": trainer.state.log_history,
        **{split: measure(problem_type, arrays[split], arrays[f"{split}_labels"]) for split in ("validation", "test")},
        "classes": {} if problem_type == REGRESSION else class_metrics(arrays["test"], arrays["test_labels"], labels),
        "seconds_since_start_or_continuation": seconds,
        "continued_from_step": trainer.continued_from_step,
    }

    def save(folder: Path) -> None:
        final.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if options.output.save_logits:
            np.savez_compressed(folder / LOGITS_FILE, allow_pickle=False, **arrays)
        if adapted is not None:  # without PEFT's README, and a base that is a folder: its path is of this machine
            base, record = options.classifier.model, folder / "adapter" / "adapter_config.json"
            adapted.save_pretrained(str(record.parent))
            (record.parent / "README.md").unlink(missing_ok=True)
            named = {"base_model_name_or_path": None if Path(base).expanduser().exists() else base}
            write_text(record, json.dumps(read_json(record) | named, indent=2, sort_keys=True) + "\n")

    if trainer.args.should_save and results["classes"]:
        logger.info(class_table(results["classes"]))
    return run.finish(save, results)


def add_adapter(model: PreTrainedModel, rank: int) -> PeftModel:
    """Freeze a classifier's encoder, in place, and add adapters (LoRA, Hu et al. 2021) to its queries and values."""
    # Pooler and classifier are trained whole and saved with them: a language model has neither.
    parts: Json = {"target_modules": ["query", "value"], "modules_to_save": ["pooler", "classifier"]}
    return get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=2 * rank, **parts))


def warn_of_imbalance(task: datasets.DatasetDict, class_weights: str | None) -> bool:
    """Whether a class has over `IMBALANCED` times the training rows of another, which a sentence says."""
    if problem_of(task) != SINGLE:
        return False
    counts = per_label(task["train"])
    small, large = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    imbalanced = counts[large] > IMBALANCED * counts[small]
    if imbalanced and is_main_process():
        sizes = f"{large}: {counts[large]:,} training rows, {small}: {counts[small]:,}"
        advice = "" if class_weights else "; --class-weights balanced also weights the loss"
        logger.warning(f"The classes differ in size ({sizes}), so macro F1 chooses the epoch{advice}.")
    return imbalanced


def drop_tokens(inputs: dict[str, torch.Tensor], share: float, kept: Sequence[int]) -> dict[str, torch.Tensor]:
    """Leave out tokens of a batch (texts, tokens) at random (torch's generator), never those of the ids `kept`.

    The others move up, so that rows end in padding, `attention_mask` 0.
    """
    ids, known = inputs["input_ids"], inputs["attention_mask"].bool()
    chosen = (torch.rand(ids.shape) >= share).to(ids.device) | torch.isin(ids, torch.tensor(kept, device=ids.device))
    known = known & chosen
    order = (~known).byte().argsort(dim=1, stable=True)[:, : int(known.sum(dim=1).max())]
    names = [name for name in ("input_ids", "token_type_ids") if name in inputs]
    moved: dict[str, torch.Tensor] = {name: inputs[name].gather(1, order) for name in names}
    return {**inputs, **moved, "attention_mask": known.gather(1, order).long()}


def _balanced_loss(labels: np.ndarray, smoothing: float) -> Callable[..., torch.Tensor]:
    """Cross-entropy over the number of texts, a text weighing n / (classes x rows of its class) of `labels` (n,)."""
    weights = torch.from_numpy(compute_class_weight("balanced", classes=np.unique(labels), y=labels)).float()

    def loss(outputs: ModelOutput, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        of_class, logits = weights.to(labels.device), outputs["logits"].float()
        total = cross_entropy(logits, labels, of_class, reduction="sum", label_smoothing=smoothing)
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return loss


def _build_trainer(
    options: FinetuneOptions, arguments: TrainingArguments, model: Any, task: datasets.DatasetDict, tokenizer: Any
) -> RunTrainer:
    problem_type, schedule, rows = problem_of(task), options.schedule, {}
    for split in ("train", "validation"):
        rows[split] = tokenize(task[split], tokenizer, tokenizer.model_max_length).rename_column("label", "labels")
        if problem_type != SINGLE:
            labels = scaled_labels(task, split).astype("float32").tolist()
            rows[split] = rows[split].remove_columns("labels").add_column("labels", labels)
    if "metric_for_best_model" not in options.training:
        if warn_of_imbalance(task, schedule.class_weights):
            arguments.metric_for_best_model = "macro_f1"
        if problem_type != SINGLE:
            arguments.metric_for_best_model = "loss" if problem_type == REGRESSION else HEADLINE[MULTI]
            arguments.greater_is_better = problem_type == MULTI
    loss = rate = change = None
    if schedule.token_dropout:
        kept = [tokenizer.cls_token_id, tokenizer.sep_token_id]
        change = partial(drop_tokens, share=schedule.token_dropout, kept=kept)
    if schedule.class_weights == "balanced":
        loss = _balanced_loss(labels_of(task["train"]), arguments.label_smoothing_factor)
    if schedule.schedule == "paper":
        rate = _rate_by_epochs(arguments, math.ceil(len(rows["train"]) / rows_per_step(arguments)))

    def compute_metrics(prediction: Any) -> dict[str, float]:
        scores = measure(problem_type, np.asarray(prediction.predictions), np.asarray(prediction.label_ids))
        return {name: value for name, value in scores.items() if value is not None and name != "loss"}

    trainer = RunTrainer(
        rate=rate,
        decays_everything=rate is not None,
        change=change,
        model=model,
        args=arguments,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
        compute_loss_func=loss,
    )
    LogRows(trainer)
    if schedule.patience is not None:
        trainer.add_callback(Patience(schedule.patience))
    return trainer


def _rate_by_epochs(arguments: TrainingArguments, steps_per_epoch: int) -> Callable[[int, int], float]:
    """The authors' rate: its peak's share 1 - e/E in epoch e of E (from 0), after a warm-up where one was asked for."""

    def share(step: int, steps: int) -> float:
        epochs = steps / steps_per_epoch if arguments.max_steps > 0 else arguments.num_train_epochs
        warmup = arguments.get_warmup_steps(steps)
        return min(1.0, step / max(1, warmup)) if step < warmup else 1 - step // steps_per_epoch / epochs

    return share


def check_kind(options: FinetuneOptions, task: datasets.DatasetDict) -> None:
    """Raise UserError for options that only tasks of one class a text have, and for a set of one label."""
    problem_type, labels = problem_of(task), class_names(task)
    if problem_type == MULTI and len(labels) < 2:
        remedy = "give each text one of two classes, such as yes and no, with --problem-type single"
        raise UserError(f"--problem-type multi needs two labels, and the rows have just {labels}: {remedy}.")
    metric = str(options.training.get("metric_for_best_model") or "").removeprefix("eval_")
    asked = {
        "--class-weights": options.schedule.class_weights,
        "--label-smoothing-factor": options.training.get("label_smoothing_factor"),
        "--lora-rank": problem_type == REGRESSION and options.classifier.lora_rank,
        "--metric-for-best-model": metric == "accuracy",
    }
    for flag, value in asked.items():
        if value and problem_type != SINGLE:
            raise UserError(f"{flag} works only for tasks with one class a text: leave it out.")
    if problem_type == REGRESSION and metric not in ("", "loss"):
        raise UserError(f"--metric-for-best-model {metric} is not for tasks of numbers: give loss, or leave it out.")


def _scale_of(task: datasets.DatasetDict) -> tuple[float, float]:
    numbers = labels_of(task["train"])
    return float(numbers.mean()), float(numbers.std()) or 1.0


def scaled_labels(task: datasets.DatasetDict, split: str) -> np.ndarray:
    """The labels as they are trained on: numbers of mean 0 and deviation 1, which the saved classifier undoes.

    So the losses and errors of `history` are in deviations of the training numbers; those of `test` are not.
    """
    labels = labels_of(task[split])
    if problem_of(task) != REGRESSION:
        return labels
    mean, deviation = _scale_of(task)
    return (labels - mean) / deviation
