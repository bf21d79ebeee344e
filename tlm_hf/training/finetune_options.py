"""Options of fine-tuning: what there is, what is refused, and what a run records of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..data.task_options import TEXT_OPTIONS, TaskArguments
from ..errors import UserError
from ..option_fields import option
from ..recipes import FINETUNING_SCHEDULES
from .options import REFUSED as REFUSED
from .options import OurArguments, build_arguments, check_names, record, refuse, sort_options


@dataclass
class ClassifierOptions:
    _argument_group_name = "model"
    model: str = option("", "Pre-trained encoder: folder or Hub name.", alias="model_name_or_path")
    models: list[str] = option(list, "Several encoders in place of --model: OUTPUT/member-k from each.")
    from_scratch: bool = option(False, "Same architecture and tokenizer, new weights.")
    max_length: int | None = option(None, "Tokens of a text; default: the encoder's.", alias="max_seq_length")
    dropout: float | None = option(None, "Hidden, attention and classifier dropout (0.1).")
    initializer_range: float | None = option(None, "With --from-scratch: deviation of weights; default: the encoder's.")
    head: str = option("new", "Classifier's start: random, or logistic regression on [CLS].", choices=["new", "linear"])
    lora_rank: int | None = option(None, "Train adapters of this rank, pooler and classifier alone (LoRA).")


@dataclass
class FinetuneScheduleOptions:
    _argument_group_name = "schedule"
    schedule: str = option("tlm", "Defaults of the rest: ours or the authors'.", choices=list(FINETUNING_SCHEDULES))
    batch_size: int | None = option(None, "Texts per optimizer step, over all processes (32).")
    token_dropout: float = option(0.0, "Share of a training text's tokens that each pass leaves out.")
    patience: int | None = option(None, "Stop after so many epochs without a better one on validation.")
    class_weights: str | None = option(None, "balanced: texts of rare classes count more.", choices=["balanced"])


@dataclass
class FinetuneOutputOptions:
    _argument_group_name = "output"
    save_logits: bool = option(False, "Also logits.npz: validation and test logits with their labels.")
    num_threads: int | None = option(None, "CPU threads; default: torch's choice.")
    workers: int | None = option(None, "With --models: how many train at once; default: one for each CPU thread.")


@dataclass
class FinetuningArguments(OurArguments):
    """transformers' TrainingArguments with the defaults of fine-tuning."""

    num_train_epochs: float = option(8.0, "Passes over the training split (8 or 50).", group="schedule")
    learning_rate: float = option(1e-3, "Peak rate (1e-3 or 5e-5; tune it for deep encoders).", group="schedule")
    per_device_eval_batch_size: int = option(128, "Rows of an evaluation batch.")
    eval_strategy: str = "epoch"  # type: ignore[assignment]
    save_strategy: str = "epoch"  # type: ignore[assignment]
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = option(
        "accuracy",
        "Chooses the epoch on validation; default: macro_f1 where classes differ much in size, else accuracy.",
        choices=["accuracy", "macro_f1", "loss"],
    )


GROUPS = (TaskArguments, ClassifierOptions, FinetuneScheduleOptions, FinetuneOutputOptions, FinetuningArguments)
NOT_RECORDED = ("task", "task_path", *TEXT_OPTIONS, "model", "models", "save_logits")


class FinetuneOptions(NamedTuple):
    """The groups of a fine-tuning's options, with the schedule's values where none was given."""

    task: TaskArguments
    classifier: ClassifierOptions
    schedule: FinetuneScheduleOptions
    output: FinetuneOutputOptions
    training: dict[str, Any]

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "FinetuneOptions":
        """Sort options into groups; raises UserError for impossible ones."""
        given = check_names(given, GROUPS)
        refuse(given, ("save_steps", "eval_steps"), "each epoch is evaluated and saved")
        if "models" not in given:
            refuse(given, ("workers",), "it is for several --models")
        name = given.get("schedule", "tlm")
        if name == "paper":
            refuse(given, ["lr_scheduler_type"], "the schedule paper sets the rate itself")
        given = {**FINETUNING_SCHEDULES[name], **given}
        if "per_device_train_batch_size" in given:
            del given["batch_size"]
        options = cls._make(sort_options(given, GROUPS))
        classifier = options.classifier
        if classifier.head == "linear" and (classifier.from_scratch or classifier.lora_rank is not None):
            raise UserError("--head linear fits a pre-trained encoder whose weights are trained: leave it out.")
        if classifier.initializer_range is not None and not classifier.from_scratch:
            raise UserError("--initializer-range is that of new weights: add --from-scratch, or leave it out.")
        if classifier.from_scratch and classifier.lora_rank is not None:
            raise UserError("--lora-rank adapts pre-trained weights, and --from-scratch has none: leave one out.")
        return options

    def arguments(self) -> FinetuningArguments:
        return build_arguments(FinetuningArguments, self.training, self.schedule.batch_size)

    def settings(self) -> dict[str, Any]:
        """What a run records: the options that decide the weights."""
        return record(self[:3], FinetuningArguments, self.training, (), NOT_RECORDED)
