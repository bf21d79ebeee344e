"""What a release file says a model was made from, held against what its run says it was made from."""

from typing import Any

from ..errors import UserError
from ..training.finetune import NEW
from .release_entries import ClassifierEntry, CommitteeEntry, ModelEntry


def check_links(entry: ModelEntry, results: dict[str, Any]) -> None:
    """Refuse a base of a classifier that has none, and repositories of others that the run did not read.

    Those of the same release are compared by their weights while staging; of a repository elsewhere nothing but its
    name is at hand, and the run has recorded it.

    Args:
        entry: the repository.
        results: of its run, or of one of its branches.

    Raises:
        UserError: one sentence that names the base or member.
    """
    if isinstance(entry, CommitteeEntry):
        for name in entry.members:
            if "/" in name and name.partition("@")[0] not in results["members"]:
                raise UserError(
                    f"{entry.name} is not made of {name} (its run names {', '.join(results['members'])}): correct its "
                    "members."
                )
    elif isinstance(entry, ClassifierEntry) and entry.base is not None:
        if results["settings"]["weights"] == NEW:
            raise UserError(
                f"{entry.name} was trained from scratch, so it was not fine-tuned from {entry.base}: take its base out."
            )
        if "/" in entry.base and entry.base.partition("@")[0] != results["model"]:
            raise UserError(
                f"{entry.name} was not fine-tuned from {entry.base} (its run names {results['model']}): correct its "
                "base."
            )
