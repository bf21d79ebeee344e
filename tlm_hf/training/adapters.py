"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) for fine-tuning, through PEFT."""

import copy
import json
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from ..runs.atomic_files import read_json

ADAPTER = "adapter"
"""Folder of the adapter inside the output folder."""
HEAD = ("pooler", "classifier")
"""Trained whole and saved with the adapter: a language model has neither, so they would be new at each load."""


def add_adapter(model: PreTrainedModel, rank: int) -> PeftModel:
    """Freeze a classifier's encoder, in place, and add trainable factors (rank, in), (out, rank), times 2.

    They are at every layer's queries and values (as Hu et al. chose); pooler and classifier are trained whole.
    """
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=rank,
        lora_alpha=2 * rank,
        target_modules=["query", "value"],
        modules_to_save=list(HEAD),
    )
    return get_peft_model(model, config)


def merged_copy(model: PeftModel) -> PreTrainedModel:
    """The plain classifier that computes what the adapted one does; `model` stays as it is."""
    return copy.deepcopy(model).merge_and_unload()


def save_adapter(model: PeftModel, folder: Path, base: str) -> None:
    """Write the adapter; a base that is a folder is not named, since its path is of this machine."""
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's own, which names that path; docs/how-to say how to load it
    record = folder / "adapter_config.json"
    config = read_json(record) | {"base_model_name_or_path": None if Path(base).expanduser().exists() else base}
    record.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
