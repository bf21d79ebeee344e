"""Data set folders, ready to push and loadable by `datasets` alone: parquet files, a card, facts in `subset.json`."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import datasets
import yaml
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from ..cards import PAPER, card_template, escape_code, package_data
from ..errors import UserError, check_range
from ..option_fields import option
from ..runs.atomic_files import Json, file_hash, whole_folder, write_json
from ..runs.provenance import portable, portable_path, provenance
from .corpora import load_corpus
from .near_duplicates import NEAR_SHARE, SHINGLE_WORDS, SUBSET_FILE, SUBSET_KIND, drop_leaking
from .sources import ID, describe_split, facts_of
from .tasks import TaskArguments, load_task_from

NOT_SETTINGS = ("output_dir", "data_root")
FILE = "{}/{}-00000-of-00001.parquet"  # of a configuration and a split, in the Hub's own pattern


@dataclass(frozen=True)
class Source:
    """What a card says of where text comes from; `hub` are the card's `source_datasets`."""

    title: str
    note: str
    licence: list[str]
    licence_name: str | None = None
    hub: Sequence[str] = ("original",)
    language: Sequence[str] = ("en",)


def known_source(name: str) -> Source | None:
    """What `model_cards/sources.yaml` says of a corpus or task by its name."""
    known = yaml.safe_load((package_data("model_cards") / "sources.yaml").read_text(encoding="utf-8"))
    return Source(**known[name]) if name in known else None


SHOWN_FACTS = ("source", "revision", "config", "seed")  # facts of the training split that the card shows
UNKNOWN = "Its licence is not known to the program that wrote this card"


@dataclass
class PrepareDataArguments(TaskArguments):
    """Options of `tlm prepare-data`."""

    task: str = option("", "A task (as for finetune) to make a data set of.")
    corpus: str = option("", "A corpus (as for pretrain) to make a data set of.")
    num_texts: list[int] = option(list, "Sizes of the corpus, ascending, each in the next (default: all).")
    validation_texts: int = option(1000, "Held-out texts of the corpus.")
    seed: int = option(0, "Seed of the choice of a corpus' texts (a task's: --task-seed).")
    text_unit: str | None = option(None, "As for pretrain: paragraph or line.")
    corpus_config: str | None = option(None, "Configuration of a Hub corpus.")
    corpus_revision: str | None = option(None, "Revision of a Hub corpus.")
    output_dir: str = option("", "The folder to make; its name is the data set's.")


def prepare_data(arguments: PrepareDataArguments) -> Json:
    """Make a data set folder, ready to push, of a corpus in nested sizes or of a task, without leaking rows."""
    if not arguments.output_dir:
        raise UserError("prepare-data needs --output-dir: name a new or an empty folder.")
    destination = Path(arguments.output_dir).expanduser().resolve()
    if destination.is_file() or (destination.is_dir() and any(destination.iterdir())):
        raise UserError(f"The --output-dir {arguments.output_dir!r} is there already: name a new or an empty folder.")
    if bool(arguments.corpus) == bool(arguments.task):
        raise UserError("Give one of --corpus and --task: a data set is made of one of them.")
    check_range(arguments, 1, float("inf"), "validation_texts")
    if arguments.text_pair_column is not None:
        raise UserError("prepare-data makes data sets of single texts: leave out --text-pair-column.")
    sizes = arguments.num_texts
    if arguments.task and sizes:
        raise UserError("--num-texts are sizes of a corpus: for a task give --train-per-label and its siblings.")
    if sizes != sorted({size for size in sizes if size > 0}):
        given = " ".join(map(str, sizes))
        raise UserError(f"--num-texts is {given}: give sizes of at least 1 in ascending order, each once.")
    arguments = replace(arguments, drop_leakage=True)
    configs = _corpus(arguments) if arguments.corpus else {"default": load_task_from(arguments)}
    record = _write(arguments, configs, destination)
    rows = {config: {split: facts["rows"] for split, facts in of.items()} for config, of in record["configs"].items()}
    return {**record, "output_dir": arguments.output_dir, "rows": rows}


def config_name(size: int | None) -> str:
    """Name of a corpus size: 20000 is `20k`, 2000000 is `2m`, 1234 is `1234`, None is `all`."""
    name = "all" if size is None else str(size)
    return name.removesuffix("0" * 6) + "m" if name.endswith("0" * 6) else re.sub("000$", "k", name)


def _corpus(arguments: PrepareDataArguments) -> dict[str, datasets.DatasetDict]:
    """Every size is a prefix of the largest one, so each is in the next; all have the same held-out texts."""
    sizes: list[int | None] = [*arguments.num_texts] or [None]
    options: Json = {"config": arguments.corpus_config, "revision": arguments.corpus_revision, "seed": arguments.seed}
    options |= {"root": arguments.data_root, "unit": arguments.text_unit, "written": arguments}
    options |= {"text_column": arguments.text_column or "text", "validation_texts": arguments.validation_texts}
    corpus = load_corpus(arguments.corpus, num_texts=sizes[-1], **options)
    configs, held_out = {}, corpus["validation"]
    for size in sizes:
        rows = corpus["train"].select(range(size or len(corpus["train"])))
        train = drop_leaking(describe_split(rows, **facts_of(corpus["train"])), config_name(size), [held_out])
        configs[config_name(size)] = datasets.DatasetDict(train=train, validation=held_out)
    return configs


def _write(arguments: PrepareDataArguments, configs: dict[str, datasets.DatasetDict], destination: Path) -> Json:
    """Write splits by configuration as a folder that `datasets.load_dataset` opens; returns its `subset.json`."""
    settings = {key: value for key, value in asdict(arguments).items() if key not in NOT_SETTINGS}
    facts = {name: {split: facts_of(rows) for split, rows in of.items()} for name, of in configs.items()}
    record: Json = {"kind": SUBSET_KIND, "name": destination.name, "settings": settings, "configs": facts}
    record = portable({**record, **provenance()})
    try:
        with whole_folder(destination) as folder:
            for config, splits in configs.items():
                (folder / config).mkdir(parents=True)
                for split, rows in splits.items():
                    # In one piece, without indices or history, so that equal rows give equal files.
                    features = _published(rows)
                    whole = datasets.Dataset.from_dict({name: rows[name][:] for name in features}, features=features)
                    whole.to_parquet(str(folder / FILE.format(config, split)))
            card = _render_card(record, arguments.corpus or arguments.task, configs)
            (folder / "README.md").write_text(card, encoding="utf-8")
            files = filter(Path.is_file, sorted(folder.rglob("*")))
            record["files"] = {path.relative_to(folder).as_posix(): file_hash(path) for path in files}
            write_json(folder / SUBSET_FILE, record)
    except OSError as error:
        raise UserError(f"{destination.name} cannot be written ({error}): choose another --output-dir.") from error
    return record


def _published(rows: datasets.Dataset) -> datasets.Features:
    return datasets.Features({name: rows.features[name] for name in ("text", ID, "label") if name in rows.features})


def _render_card(record: Json, place: str, tables: dict[str, datasets.DatasetDict]) -> str:
    origin = portable_path(place)
    note = f"From `{escape_code(origin)}`. {UNKNOWN}: say it here, and as `license` above, before you publish."
    source = known_source(origin) or Source(origin, note, ["unknown"], language=())
    splits = list(record["configs"].values())[-1]
    body = card_template("dataset").render(
        name=record["name"],
        source=source,
        configs=record["configs"],
        labels=list(splits["train"].get("per_label", {})),
        counts={split: facts.get("per_label", {}) for split, facts in splits.items()},
        chosen={key: splits["train"][key] for key in SHOWN_FACTS if splits["train"].get(key) is not None},
        dropped=sum(facts.get("leaking_rows_dropped", 0) for facts in splits.values()),
        shingle_words=SHINGLE_WORDS,
        near_share=NEAR_SHARE,
        results=record,
    )
    return f"---\n{_metadata(record['name'], source, tables).to_yaml()}\n---\n\n{body.strip()}\n"


def _metadata(name: str, source: Source, tables: dict[str, datasets.DatasetDict]) -> DatasetCardData:
    """Front matter: `datasets` writes the features, huggingface_hub the YAML, so that names in it are quoted."""
    licence_name: Json = {"license_name": source.licence_name} if source.licence_name else {}
    has_labels = "label" in next(iter(tables.values()))["train"].column_names
    data = DatasetCardData(
        pretty_name=name,
        language=list(source.language) or None,
        license=source.licence[0] if len(source.licence) == 1 else list(source.licence),
        source_datasets=list(source.hub),
        task_categories=["text-classification"] if has_labels else ["fill-mask", "text-generation"],
        tags=["tlm", "tiny-language-model", PAPER],
        **licence_name,
    )
    infos = {name: datasets.DatasetInfo(features=_published(of["train"])) for name, of in tables.items()}
    DatasetInfosDict(infos).to_dataset_card_data(data)
    # Files are named one by one: a pattern would take up what an older version of the data set left on the Hub.
    data["configs"] = []
    for config, splits in tables.items():
        files = [{"split": split, "path": FILE.format(config, split)} for split in splits]
        data["configs"].append({"config_name": config, "data_files": files})
    data["configs"][-1]["default"] = True  # the others are parts of it
    return data
