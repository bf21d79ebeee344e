"""`--push-to-hub --hub-model-id OWNER/NAME`: the finished folder as one commit."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError
from transformers import TrainingArguments

from ..errors import UserError
from ..runs.output_folder import is_main_process

FAILURES = (HTTPError, LocalTokenNotFoundError, ValueError, OSError)
NOT_PUSHED = ["checkpoint-*", "step-*", ".*", "*.log", "run.json", "time_budget.json"]
"""What only continuing needs."""


def prepare_push(options: Mapping[str, Any], arguments: TrainingArguments) -> Callable[[Path], object]:
    """Make the repository before any work, and return what uploads the finished folder.

    Args:
        options: those of TrainingArguments that were given.
        arguments: of the run.

    Raises:
        UserError: the Hub refuses the repository.
    """
    if not options.get("push_to_hub") or not is_main_process():
        return lambda folder: None
    name = arguments.hub_model_id or Path(arguments.output_dir).absolute().name
    api = HfApi(token=arguments.hub_token)
    try:
        repo_id = api.create_repo(name, private=arguments.hub_private_repo, exist_ok=True).repo_id
        if arguments.hub_revision is not None:
            api.create_branch(repo_id, branch=arguments.hub_revision, exist_ok=True)
    except FAILURES as error:
        raise UserError(
            f"The Hub refuses {name!r} ({_reason(error)}): see --hub-model-id and `hf auth login`."
        ) from error

    def push(folder: Path) -> None:
        try:
            api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=arguments.hub_revision,
                ignore_patterns=NOT_PUSHED,
                commit_message="Trained with tlm-hf",
            )
        except FAILURES as error:
            raise UserError(
                f"{folder} is finished, but was not pushed to {repo_id} ({_reason(error)}): run the same command again."
            ) from error

    return push


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
