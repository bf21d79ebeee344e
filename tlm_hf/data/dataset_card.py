"""Cards of data sets: YAML that `datasets` and the Hub read, and a page in words, from the facts of the subsets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from huggingface_hub import DatasetCardData

from ..cards import PAPER, card_template, escape_code
from .leakage import NEAR_SHARE, SHINGLE_WORDS
from .lineage import lineage_chain


@dataclass(frozen=True)
class Source:
    """What a card says of where text comes from."""

    title: str
    note: str
    licence: tuple[str, ...]
    licence_name: str | None = None
    hub: tuple[str, ...] = ("original",)
    language: tuple[str, ...] = ("en",)


SHOWN_FACTS = ("source", "revision", "config", "seed")
"""Facts of the training split that stand on the card itself."""
UNKNOWN = "Its licence is not known to the program that wrote this card"
KNOWN_SOURCES = {
    "wikipedia": Source(
        "English Wikipedia",
        "Text of [Wikipedia](https://en.wikipedia.org) articles by their authors, under CC BY-SA 3.0 and the GFDL: "
        "name the source, and share what you derive under the same licence. The full-size source is "
        "`wikimedia/wikipedia`, configuration `20231101.en`.",
        ("cc-by-sa-3.0", "gfdl"),
        hub=("wikimedia/wikipedia",),
    ),
    "ag_news": Source(
        "AG News, sections of news",
        "Titles and first lines of news articles, from the AG corpus of news articles by way of `fancyzhx/ag_news`. "
        "The corpus is given for research and other **non-commercial** use; the articles belong to their publishers.",
        ("other",),
        "ag-corpus-research-non-commercial",
        ("fancyzhx/ag_news",),
    ),
    "dbpedia_14": Source(
        "DBpedia-14, kinds of things",
        "Abstracts of [DBpedia](https://www.dbpedia.org), which come from Wikipedia, by way of `fancyzhx/dbpedia_14`, "
        "under CC BY-SA 3.0: name the source, and share what you derive under the same licence.",
        ("cc-by-sa-3.0",),
        hub=("fancyzhx/dbpedia_14",),
    ),
    "fewrel": Source(
        "FewRel, relations between two entities",
        "Sentences of Wikipedia labelled with Wikidata relations, from the official files of "
        "[FewRel](https://github.com/thunlp/FewRel) (MIT licence).",
        ("mit",),
        hub=("extended|few_rel",),
    ),
    "docstrings": Source(
        "docstrings of Python libraries",
        "Paragraphs from the docstrings of installed Python libraries, each under its library's own licence (BSD, MIT, "
        "Apache-2.0 and others).",
        ("other",),
        "licences-of-the-libraries",
    ),
}


def file_name(config: str, split: str) -> str:
    """Path of a split inside the folder, in the Hub's own pattern."""
    return f"{config}/{split}-00000-of-00001.parquet"


def render_dataset_card(
    record: dict[str, Any], kind: str, source_name: str, tables: dict[str, dict[str, datasets.Dataset]], folder: Path
) -> str:
    """Render the data set card.

    Args:
        record: what `subset.json` will hold; every number in the card comes from it.
        kind: `corpus`, `task` or `overlap`; of the last no configuration is the default, since none holds the others.
        source_name: the corpus or task that the text first came from, free of paths of this machine.
        tables: the splits as written, by configuration.
        folder: where their parquet files lie.

    Returns:
        Markdown with YAML front matter.

    Raises:
        jinja2.UndefinedError: when the template names a field that is not there.
    """
    source = _source(source_name)
    largest = list(record["configs"])[-1]
    splits = record["configs"][largest]
    checks = [check for found in record["leakage"].values() for check in found]
    body = card_template("dataset").render(
        name=record["name"],
        kind=kind,
        source=source,
        settings=record["settings"],
        configs=record["configs"],
        labels=list(splits["train"].get("per_label", {})),
        counts={split: facts.get("per_label", {}) for split, facts in splits.items()},
        chosen=_shown(splits["train"]),
        parents=[{**parent, "facts": _shown(parent["facts"])} for parent in lineage_chain(record["made_from"])],
        leakage=record["leakage"],
        leaking=any(check["training"]["exact"] + check["training"]["near"] for check in checks),
        dropped=sum(facts.get("leaking_rows_dropped", 0) for facts in splits.values()),
        shingle_words=SHINGLE_WORDS,
        near_share=NEAR_SHARE,
        results=record,
    )
    return f"---\n{_metadata(kind, record['name'], source, tables, folder).to_yaml()}\n---\n\n{body.strip()}\n"


def _metadata(
    kind: str, name: str, source: Source, tables: dict[str, dict[str, datasets.Dataset]], folder: Path
) -> DatasetCardData:
    """Front matter: `datasets` writes the features, huggingface_hub the YAML, so that names in it are quoted."""
    largest = list(tables)[-1]
    more: dict[str, Any] = {"license_name": source.licence_name} if source.licence_name else {}
    data = DatasetCardData(
        pretty_name=name,
        language=list(source.language) or None,
        license=source.licence[0] if len(source.licence) == 1 else list(source.licence),
        size_categories=[size_category(sum(len(table) for table in tables[largest].values()))],
        source_datasets=list(source.hub),
        task_categories=["text-classification"] if kind == "task" else ["fill-mask", "text-generation"],
        tags=["tlm", "tiny-language-model", PAPER],
        **more,
    )
    infos = {}
    for config, splits in tables.items():
        found = SplitDict()
        for split, table in splits.items():
            found.add(SplitInfo(name=split, num_bytes=table.data.nbytes, num_examples=len(table)))
        infos[config] = datasets.DatasetInfo(
            features=splits["train"].features,
            splits=found,
            download_size=sum((folder / file_name(config, split)).stat().st_size for split in splits),
            dataset_size=sum(table.data.nbytes for table in splits.values()),
        )
    DatasetInfosDict(infos).to_dataset_card_data(data)
    data["configs"] = [
        {
            "config_name": config,
            # Named one by one: a pattern would take up what an older version of the data set left on the Hub.
            "data_files": [{"split": split, "path": file_name(config, split)} for split in splits],
            **({"default": True} if config == largest and kind != "overlap" else {}),
        }
        for config, splits in tables.items()
    ]
    return data


def _shown(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a training split that stand on the card."""
    return {key: facts[key] for key in SHOWN_FACTS if facts.get(key) is not None}


def size_category(rows: int) -> str:
    """The Hub's name for a number of rows, such as `10K<n<100K`."""
    bounds = [(10**3, "1K"), (10**4, "10K"), (10**5, "100K"), (10**6, "1M"), (10**7, "10M"), (10**8, "100M"),
              (10**9, "1B")]  # fmt: skip
    below = ""
    for bound, word in bounds:
        if rows < bound:
            return f"{below}<n<{word}" if below else f"n<{word}"
        below = word
    return "n>1B"


def _source(name: str) -> Source:
    """What is known of a source; nothing is made up for one that is not."""
    if name in KNOWN_SOURCES:
        return KNOWN_SOURCES[name]
    return Source(
        name,
        f"From `{escape_code(name)}`. {UNKNOWN}: say it here, and in the `license` field above, before you publish.",
        ("unknown",),
        language=(),
    )
