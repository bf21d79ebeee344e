"""Data set folders: parquet files, a card and the facts, ready to push and loadable by path with `datasets` alone.

<folder>/<configuration>/<split>-00000-of-00001.parquet
<folder>/README.md      the card: its YAML names each file, so that a stale one beside it is never read
<folder>/subset.json    facts of every split, the leakage report, hashes of the files, what they were made from, and how
"""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets

from ..errors import UserError
from ..runs.atomic_files import Json, file_hash, write_json
from ..runs.provenance import portable, portable_path, provenance
from .dataset_card import file_name, render_dataset_card
from .leakage import SUBSET_FILE, SUBSET_KIND
from .prepare import Prepared, PrepareDataArguments, prepare
from .sources import facts_of, text_hash

CARD_FILE = "README.md"
NOT_SETTINGS = ("output_dir", "json", "data_root")
REMEDY = "choose another --output-dir, or remove it"


def prepare_data(arguments: PrepareDataArguments) -> Json:
    """Make a data set folder, ready to push, of a corpus in nested sizes or of a task, with a leakage report.

    The same command again gives the same parquet files, byte for byte; a folder of another subset is refused.

    Raises:
        UserError: see `data.prepare.prepare` and `write_dataset_folder`.
    """
    destination, settings = open_destination(arguments)
    others = _read_facts_file(arguments.json)
    prepared = prepare(arguments)
    record = write_dataset_folder(prepared, destination, settings)
    if arguments.json is not None:
        write_json(Path(arguments.json), dict(sorted({**others, record["name"]: record}.items())))
    rows = {config: {split: len(rows) for split, rows in splits.items()} for config, splits in prepared.configs.items()}
    leaking = {
        config: {" / ".join(check.between): check.training.leaking for check in checks}
        for config, checks in prepared.leakage.items()
    }
    return {**record, "output_dir": arguments.output_dir, "rows": rows, "leaking": leaking}


def open_destination(arguments: Any) -> tuple[Path, Json]:
    """The folder that a command is to make and the settings that choose its rows, before any work.

    Args:
        arguments: the command's options, a dataclass with `output_dir`.

    Raises:
        UserError: no such name, or the folder cannot be written or holds something else.
    """
    if not arguments.output_dir:
        raise UserError("--output-dir is missing: name the folder to make.")
    destination = Path(arguments.output_dir).expanduser()
    if not destination.resolve().name:
        raise UserError(f"{destination} is no name for a data set folder: choose another --output-dir.")
    settings = {key: value for key, value in asdict(arguments).items() if key not in NOT_SETTINGS}
    settings = portable(json.loads(json.dumps(settings)))
    check_writable(destination, "--output-dir")
    _, old = _beside(destination)
    if old.is_dir() and not destination.exists():  # a command that was killed between its two renames
        old.rename(destination)
    _read_record(destination, settings)
    return destination, settings


def check_writable(path: Path, option: str) -> None:
    """Make the folder above `path`; raises UserError where it cannot hold it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.exists()  # raises for a name that no file can have
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(0, "Permission denied")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be written ({reason}): choose another {option}.") from error


def write_dataset_folder(prepared: Prepared, destination: Path, settings: Json) -> Json:
    """Write subsets as a folder that `datasets.load_dataset(folder, configuration)` opens, features and all.

    The folder is made under another name beside it and renamed when it is whole. Its content depends on the subsets
    alone, but for the provenance in `subset.json` and the card.

    Args:
        prepared: the subsets.
        destination: the folder; its name is the data set's.
        settings: what chose the rows, without paths of this machine.

    Returns:
        What `subset.json` holds.

    Raises:
        UserError: the folder holds something else, or it cannot be written.
    """
    tables = {
        config: {split: _plain(rows) for split, rows in splits.items()} for config, splits in prepared.configs.items()
    }
    facts = {
        config: {split: _facts(prepared.configs[config][split], table) for split, table in splits.items()}
        for config, splits in tables.items()
    }
    _check_same_texts(destination, settings, facts)
    destination = destination.resolve()
    record = portable(
        {
            "kind": SUBSET_KIND,
            "name": destination.name,
            "settings": settings,
            "made_from": asdict(prepared.made_from) if prepared.made_from else None,
            "configs": facts,
            "leakage": {config: [asdict(check) for check in checks] for config, checks in prepared.leakage.items()},
            **provenance(),
        }
    )
    partial, old = _beside(destination)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for config, splits in tables.items():
            (partial / config).mkdir(parents=True)
            for split, table in splits.items():
                table.to_parquet(str(partial / file_name(config, split)))
        origin = prepared.made_from.origin if prepared.made_from else portable_path(prepared.source)
        card = render_dataset_card(record, prepared.kind, origin, tables, partial)
        (partial / CARD_FILE).write_text(card, encoding="utf-8")
        record["files"] = {name: file_hash(path) for name, path in _files(partial).items()}
        write_json(partial / SUBSET_FILE, record)
        if destination.exists():
            shutil.rmtree(old, ignore_errors=True)
            destination.rename(old)
        partial.rename(destination)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise UserError(
            f"The data set folder {destination.name} cannot be written ({reason}), so nothing was: make room, or "
            "choose another --output-dir."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if old.is_dir() and not destination.exists():
            old.rename(destination)
        shutil.rmtree(old, ignore_errors=True)
    return record


def _read_record(destination: Path, settings: Json) -> Json | None:
    """The `subset.json` of a folder that these settings wrote, untouched since; None where nothing is there yet.

    Raises:
        UserError: it holds anything else.
    """
    if destination.exists() and not destination.is_dir():
        raise UserError(f"The output folder {destination} is a file: choose another --output-dir.")
    if not destination.is_dir() or not any(destination.iterdir()):
        return None
    try:
        record: Json = json.loads((destination / SUBSET_FILE).read_text(encoding="utf-8"))
        is_ours = record["kind"] == SUBSET_KIND
        before, hashes = record["settings"], record["files"]
    except (OSError, ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise UserError(f"The output folder {destination} holds other files and no data subset of ours: {REMEDY}.")
    differing = [key for key in sorted({*before, *settings}) if before.get(key) != settings.get(key)]
    if differing:
        details = ", ".join(
            f"{key} {before.get(key, 'nothing')!r} there and {settings.get(key, 'nothing')!r} here"
            for key in differing[:3]
        )
        raise UserError(f"The output folder {destination} holds another subset ({details}): {REMEDY}.")
    for name, path in _files(destination).items():
        if name != SUBSET_FILE and hashes.get(name) != file_hash(path):
            raise UserError(f"{name} in the output folder {destination} was added or changed by others: {REMEDY}.")
    return record


def _check_same_texts(destination: Path, settings: Json, facts: Json) -> None:
    """Raise UserError where the folder holds other texts, chosen by the same settings from a source that changed."""
    record = _read_record(destination, settings)
    if record is None:
        return
    for config, splits in facts.items():
        for split, of_split in splits.items():
            if record["configs"].get(config, {}).get(split, {}).get("sha256") != of_split["sha256"]:
                raise UserError(
                    f"The output folder {destination} holds other texts in {config}/{split} (the source changed): "
                    f"{REMEDY}."
                )


def _beside(destination: Path) -> tuple[Path, Path]:
    """Where a folder is made, and where its predecessor waits while the new one takes its place."""
    whole = destination.resolve()
    return whole.with_name(f".{whole.name}.partial"), whole.with_name(f".{whole.name}.old")


def _files(folder: Path) -> dict[str, Path]:
    """The files of a folder by their names in it, sorted."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _plain(rows: datasets.Dataset) -> datasets.Dataset:
    """The same rows in one piece, without indices or history, so that equal rows give equal files."""
    return datasets.Dataset.from_dict({name: rows[name][:] for name in rows.column_names}, features=rows.features)


def _facts(rows: datasets.Dataset, table: datasets.Dataset) -> Json:
    return {**facts_of(rows), "rows": len(table), "sha256": text_hash(table["text"][:])}


def _read_facts_file(path: str | None) -> Json:
    """The entries of the file that --json names; empty where there is none yet."""
    if path is None:
        return {}
    check_writable(Path(path), "--json")
    if not Path(path).exists():
        return {}
    try:
        entries: Json = json.loads(Path(path).read_text(encoding="utf-8"))
        if all(entry["kind"] == SUBSET_KIND for entry in entries.values()):
            return entries
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{path} exists and holds something else than facts of data subsets: choose another --json.")
