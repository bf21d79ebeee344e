"""What a subset is: its rows' ids in the column `id`, and the facts that reproduce it, kept with the split itself.

The facts travel in `dataset.info.description` as JSON, which `save_to_disk` keeps and `map` hands on.
"""

import json
from typing import Any

import datasets

from .sources import text_hash

ID = "id"
"""Column of the row's id: where it stands in its source, such as `train/17` or `wikipedia/train.parquet/93`."""


def describe_split(split: datasets.Dataset, **facts: Any) -> datasets.Dataset:
    """Keep the facts of a subset with it.

    Args:
        split: with the columns `text` and `id`.
        **facts: JSON values, such as `source`, `revision` and `seed`; `rows` and `sha256` (over the texts in order, see
            `sources.text_hash`) are added.

    Returns:
        The same split, described.
    """
    found = {**facts, "rows": len(split), "sha256": text_hash(split["text"])}
    described = split.with_format(None)
    described.info.description = json.dumps(found, sort_keys=True, ensure_ascii=False)
    return described


def facts_of(split: datasets.Dataset) -> dict[str, Any]:
    """The facts that `describe_split` kept; empty where there are none, or another number of rows since.

    Only the number is compared: after a `shuffle`, or a `map` over the texts, the facts are those of the split before.
    """
    try:
        found = json.loads(split.info.description or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found.get("rows") == len(split) else {}
