"""Where a subset comes from that was made of another subset: what the folder of the other one says of itself.

`data.dataset_folder` writes `subset.json` into every folder that it makes. A folder that is read again as a source thus
still knows the text's own source, revision and configuration, and the licence that goes with them.
"""

import json
import logging
from pathlib import Path
from typing import Any

from ..runs.atomic_files import file_hash

logger = logging.getLogger(__name__)

SUBSET_FILE = "subset.json"
SUBSET_KIND = "tlm_hf data subset"
CARRIED = (
    "task", "source", "revision", "config", "unit", "part", "entity_markers", "columns", "seed", "leaking_rows_dropped",
    "rows", "sha256",
)  # fmt: skip
"""Facts of a training split that are told on."""


def find_lineage(place: str, config: str | None = None) -> dict[str, Any] | None:
    """What is known of the text under a path, where that is a folder of `prepare-data`, or lies in one.

    Args:
        place: path of a source, or its name on the Hub.
        config: configuration that is read of it; None for the folder's default, the last one.

    Returns:
        `name` of the folder's data set, `config`, `origin` (the corpus or task that the text first came from, such as
        `wikipedia`), `facts` of its training split (see `CARRIED`), and `made_from`, the same of the folder that it was
        itself made from, or None. None where the folder is not of ours, or was changed since.
    """
    path = Path(place).expanduser().absolute()
    folder = next((above for above in (path, *path.parents[:2]) if (above / SUBSET_FILE).is_file()), None)
    if folder is None:
        return None
    within = path.relative_to(folder).parts
    try:
        there = json.loads((folder / SUBSET_FILE).read_text(encoding="utf-8"))
        if there["kind"] != SUBSET_KIND:
            return None
        config = within[0] if within else config or list(there["configs"])[-1]
        made_from = _checked(there.get("made_from"))
        settings = there["settings"]
        found = _checked(
            {
                "name": there["name"],
                "config": config,
                "origin": made_from["origin"] if made_from else settings.get("corpus") or settings["task"],
                "facts": there["configs"][config]["train"],
                "made_from": made_from,
            }
        )
        known = {name: digest for name, digest in there["files"].items() if name.split("/")[0] == config}
        changed = sorted(name for name, digest in known.items() if file_hash(folder / name) != digest)
        if within:  # without the card, a file that lies beside them is read as well
            changed += sorted({f"{config}/{file.name}" for file in (folder / config).iterdir()} - known.keys())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    if changed:
        logger.warning(
            "Note: %s was changed since %s was made, so its origin is not carried on.", changed[0], folder.name
        )
        return None
    return found


def lineage_chain(made_from: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What a subset was made from, what that was made from, and so on."""
    chain = []
    while made_from:
        chain.append(made_from)
        made_from = made_from["made_from"]
    return chain


def _checked(made_from: Any) -> Any:
    """The entries that `find_lineage` promises, of these facts those to be told on; None stays None."""
    if made_from is None:
        return None
    return {
        "name": str(made_from["name"]),
        "config": str(made_from["config"]),
        "origin": str(made_from["origin"]),
        "facts": {key: made_from["facts"][key] for key in CARRIED if made_from["facts"].get(key) is not None},
        "made_from": _checked(made_from["made_from"]),
    }
