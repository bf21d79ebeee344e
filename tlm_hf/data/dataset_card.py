"""Cards of data sets: YAML that `datasets` and the Hub read, and a page in words, from the facts of the subsets."""

from dataclasses import dataclass

import datasets
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from ..cards import PAPER, card_template, escape_code
from ..runs.atomic_files import Json
from .leakage import NEAR_SHARE, SHINGLE_WORDS


@dataclass(frozen=True)
class Source:
    """What a card says of where text comes from; `hub` are the card's `source_datasets`."""

    title: str
    note: str
    licence: tuple[str, ...]
    licence_name: str | None = None
    hub: tuple[str, ...] = ("original",)
    language: tuple[str, ...] = ("en",)


Tables = dict[str, dict[str, datasets.Dataset]]
"""By configuration the splits."""
SHOWN_FACTS = ("source", "revision", "config", "seed")
"""Facts of the training split that the card shows."""
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


def render_dataset_card(record: Json, kind: str, origin: str, tables: Tables) -> str:
    """Render the data set card: Markdown with YAML front matter; every number comes from `record` (`subset.json`).

    `kind` is `corpus`, `task` or `overlap`; of the last no configuration is the default, since none holds the others.
    `origin` is the name of the corpus or task, `tables` the splits as written.
    """
    source = KNOWN_SOURCES.get(origin) or Source(
        origin,
        f"From `{escape_code(origin)}`. {UNKNOWN}: say it here, and in the `license` field above, before you publish.",
        ("unknown",),
        language=(),
    )
    splits = list(record["configs"].values())[-1]
    checks = [check for of_config in record["leakage"].values() for check in of_config]
    body = card_template("dataset").render(
        name=record["name"],
        kind=kind,
        source=source,
        settings=record["settings"],
        configs=record["configs"],
        labels=list(splits["train"].get("per_label", {})),
        counts={split: facts.get("per_label", {}) for split, facts in splits.items()},
        chosen={key: splits["train"][key] for key in SHOWN_FACTS if splits["train"].get(key) is not None},
        leakage=record["leakage"],
        leaking=any(check["exact"] + check["near"] for check in checks),
        dropped=sum(facts.get("leaking_rows_dropped", 0) for facts in splits.values()),
        shingle_words=SHINGLE_WORDS,
        near_share=NEAR_SHARE,
        results=record,
    )
    return f"---\n{_metadata(kind, record['name'], source, tables).to_yaml()}\n---\n\n{body.strip()}\n"


def _metadata(kind: str, name: str, source: Source, tables: Tables) -> DatasetCardData:
    """Front matter: `datasets` writes the features, huggingface_hub the YAML, so that names in it are quoted."""
    licence_name: Json = {"license_name": source.licence_name} if source.licence_name else {}
    data = DatasetCardData(
        pretty_name=name,
        language=list(source.language) or None,
        license=source.licence[0] if len(source.licence) == 1 else list(source.licence),
        source_datasets=list(source.hub),
        task_categories=["text-classification"] if kind == "task" else ["fill-mask", "text-generation"],
        tags=["tlm", "tiny-language-model", PAPER],
        **licence_name,
    )
    features = {config: datasets.DatasetInfo(features=splits["train"].features) for config, splits in tables.items()}
    DatasetInfosDict(features).to_dataset_card_data(data)
    # Files are named one by one: a pattern would take up what an older version of the data set left on the Hub.
    configs: list[Json] = []
    for config, splits in tables.items():
        files = [{"split": split, "path": file_name(config, split)} for split in splits]
        configs.append({"config_name": config, "data_files": files})
    if kind != "overlap":
        configs[-1]["default"] = True
    data["configs"] = configs
    return data
