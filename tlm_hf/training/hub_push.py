"""`--push-to-hub --hub-model-id OWNER/NAME`: the finished folder as one commit."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError
from transformers import TrainingArguments

from ..errors import UserError
from ..runs.output_folder import is_main_process

NOT_PUSHED = ["checkpoint-*", ".*", "*.log", "run.json", "time_budget.json"]  # what only continuing needs


def prepare_push(options: Mapping[str, Any], arguments: TrainingArguments) -> Callable[[Path], object]:
    """Make the repository before any work, and return what uploads the finished folder; UserError if refused."""
    if not options.get("push_to_hub") or not is_main_process():
        return lambda folder: None
    name, revision = arguments.hub_model_id or Path(arguments.output_dir).absolute().name, arguments.hub_revision
    api = HfApi(token=arguments.hub_token)
    with _sentence(f"The Hub refuses {name!r}", "see --hub-model-id and `hf auth login`"):
        repo_id = api.create_repo(name, private=arguments.hub_private_repo, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)

    def push(folder: Path) -> None:
        with _sentence(f"{folder} is finished, but was not pushed to {repo_id}", "run the same command again"):
            what = {"folder_path": folder, "revision": revision, "ignore_patterns": NOT_PUSHED}
            api.upload_folder(repo_id=repo_id, commit_message="Trained with tlm-hf", **what)

    return push


@contextmanager
def _sentence(what: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except (HTTPError, LocalTokenNotFoundError, ValueError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"{what} ({reason}): {remedy}.") from error
