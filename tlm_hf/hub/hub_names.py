"""What the Hub calls things: licences, tasks, libraries and languages of the committed list `hub_names.yaml`."""

from functools import cache
from pathlib import Path

import yaml


@cache
def known(what: str) -> frozenset[str]:
    """Identifiers of one kind.

    Args:
        what: `licence`, `task`, `library` or `language`.
    """
    lists = yaml.safe_load(Path(__file__).with_name("hub_names.yaml").read_text(encoding="utf-8"))
    return frozenset(lists[what])
