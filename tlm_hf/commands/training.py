"""The trainings as the commands call them: one model, or several side by side."""

from typing import Any

import datasets

from ..runs.atomic_files import Json
from ..training import finetune as one_finetuning
from ..training import pretrain as one_pretraining
from ..training import train_committee as own_data
from ..training.members import finetune_members, pretrain_members


def pretrain(**options: Any) -> Json:
    """Pre-train an encoder on text, or continue an existing one (--model); the same command continues a run."""
    return (pretrain_members if "num_members" in options else one_pretraining.pretrain)(**options)


def finetune(**options: Any) -> Json:
    """Fine-tune an encoder on a classification task, or train it from scratch; the same command continues a run."""
    return (finetune_members if "models" in options else one_finetuning.finetune)(**options)


def train_committee(**options: Any) -> Json:
    """Split a table, fine-tune K members from pre-trained encoders, calibrate, and write one folder."""
    datasets.disable_progress_bars()  # of tables that take no time
    arguments = own_data.OwnDataArguments(**options)
    return own_data.train_from_table(arguments.data, arguments)[1]
