"""`--push-to-hub --hub-model-id OWNER/NAME`: the finished folder as one commit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from transformers import TrainingArguments

from ..errors import UserError
from ..runs.output_folder import is_main_process

NOT_PUSHED = ["checkpoint-*", "step-*", ".*", "*.log", "run.json", "time_budget.json"]


@dataclass(frozen=True)
class HubPush:
    """Where a finished folder goes.

    Args:
        repo_id: `owner/name`; None pushes nothing.
        revision: branch, or None for `main`.
        token: None for the one that is logged in.
    """

    repo_id: str | None = None
    revision: str | None = None
    token: str | None = None

    @classmethod
    def prepare(cls, options: Mapping[str, Any], arguments: TrainingArguments) -> "HubPush":
        """Make the repository, before any work; options are those of TrainingArguments that were given.

        Raises:
            UserError: the Hub refuses it.
        """
        if not options.get("push_to_hub") or not is_main_process():
            return cls()
        token = arguments.hub_token
        name = arguments.hub_model_id or Path(arguments.output_dir).absolute().name
        try:
            api = HfApi(token=token)
            repo_id = api.create_repo(name, private=arguments.hub_private_repo, exist_ok=True).repo_id
            if arguments.hub_revision is not None:
                api.create_branch(repo_id, branch=arguments.hub_revision, exist_ok=True)
        except (HfHubHTTPError, LocalTokenNotFoundError, ValueError, OSError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise UserError(f"The Hub refuses {name!r} ({reason}): see --hub-model-id and `hf auth login`.") from error
        return cls(repo_id, arguments.hub_revision, token)

    def push(self, folder: Path) -> None:
        """Upload a finished folder without what only continuing needs."""
        if self.repo_id is not None:
            HfApi(token=self.token).upload_folder(
                repo_id=self.repo_id,
                folder_path=folder,
                revision=self.revision,
                ignore_patterns=NOT_PUSHED,
                commit_message="Trained with tlm-hf",
            )
