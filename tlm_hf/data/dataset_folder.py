"""Data set folders: parquet files, a card and the facts, ready to push and loadable by path with `datasets` alone.

<folder>/<configuration>/<split>-00000-of-00001.parquet
<folder>/README.md      the card: its YAML names each file, so that a stale one beside it is never read
<folder>/subset.json    facts of every split, the leakage report, hashes of the files, and how they were made
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets

from ..errors import UserError
from ..runs.atomic_files import Json, file_hash, read_json, write_json
from ..runs.provenance import portable, portable_path, provenance
from .dataset_card import Tables, file_name, render_dataset_card
from .leakage import SUBSET_FILE, SUBSET_KIND
from .prepare import Prepared, PrepareDataArguments, prepare
from .sources import facts_of

NOT_SETTINGS = ("output_dir", "data_root")
REMEDY = "choose another --output-dir, or remove it"


def prepare_data(arguments: PrepareDataArguments) -> Json:
    """Make a data set folder, ready to push, of a corpus in nested sizes or of a task, with a leakage report.

    The same command elsewhere gives the same parquet files, byte for byte; a folder of another subset is refused.

    Raises:
        UserError: see `data.prepare.prepare` and `write_dataset_folder`.
    """
    destination, settings = open_destination(arguments)
    prepared = prepare(arguments)
    record = write_dataset_folder(prepared, destination, settings)
    rows = {config: {split: len(rows) for split, rows in splits.items()} for config, splits in prepared.configs.items()}
    leaking = {
        config: {" / ".join(check.between): check.leaking for check in checks}
        for config, checks in prepared.leakage.items()
    }
    return {**record, "output_dir": arguments.output_dir, "rows": rows, "leaking": leaking}


def open_destination(arguments: Any) -> tuple[Path, Json]:
    """The folder that a command is to make and the settings that choose its rows.

    Raises UserError where there is no name, or the folder cannot be made or holds something else.
    """
    if not arguments.output_dir:
        raise UserError("--output-dir is missing: name the folder to make.")
    destination = Path(arguments.output_dir).expanduser().resolve()
    if not destination.name:
        raise UserError(f"{destination} cannot name a data set folder: choose another --output-dir.")
    settings = {key: value for key, value in asdict(arguments).items() if key not in NOT_SETTINGS}
    settings = portable(json.loads(json.dumps(settings)))
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{destination} cannot be written ({error.strerror}): choose another --output-dir.") from error
    _read_record(destination, settings)
    return destination, settings


def write_dataset_folder(prepared: Prepared, destination: Path, settings: Json) -> Json:
    """Write subsets as a folder that `datasets.load_dataset(folder, configuration)` opens; returns its `subset.json`.

    The folder is made under another name and renamed when it is whole. One that holds the same subsets stays as it is.

    Raises:
        UserError: the folder holds something else, or it cannot be written.
    """
    facts: Json = {
        config: {split: facts_of(rows) for split, rows in splits.items()} for config, splits in prepared.configs.items()
    }
    present = _read_record(destination, settings)
    if present is not None:
        if _hashes(present["configs"]) != _hashes(facts):
            raise UserError(f"{destination} holds other texts, since the source changed: {REMEDY}.")
        return present
    record: Json = portable(
        {
            "kind": SUBSET_KIND,
            "name": destination.name,
            "settings": settings,
            "configs": facts,
            "leakage": {config: [asdict(check) for check in checks] for config, checks in prepared.leakage.items()},
            **provenance(),
        }
    )
    partial = destination.with_name(f".{destination.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        _write_files(prepared, record, partial)
        if destination.is_dir():  # it is empty
            destination.rmdir()
        partial.rename(destination)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise UserError(f"{destination.name} cannot be written ({reason}): choose another --output-dir.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return record


def _write_files(prepared: Prepared, record: Json, folder: Path) -> None:
    """Write the parquet files, the card and `subset.json`; `record` gets the hashes of the files."""
    tables: Tables = {}
    for config, splits in prepared.configs.items():
        (folder / config).mkdir(parents=True)
        tables[config] = {}
        for split, rows in splits.items():
            # In one piece, without indices or history, so that equal rows give equal files.
            columns = {name: rows[name][:] for name in rows.column_names}
            tables[config][split] = datasets.Dataset.from_dict(columns, features=rows.features)
            tables[config][split].to_parquet(str(folder / file_name(config, split)))
    card = render_dataset_card(record, prepared.kind, portable_path(prepared.source), tables)
    (folder / "README.md").write_text(card, encoding="utf-8")
    record["files"] = {name: file_hash(path) for name, path in _files(folder).items()}
    write_json(folder / SUBSET_FILE, record)


def _read_record(destination: Path, settings: Json) -> Json | None:
    """The `subset.json` of a folder that these settings wrote, untouched since; None where nothing is there yet.

    Raises UserError where it holds anything else.
    """
    if destination.exists() and not destination.is_dir():
        raise UserError(f"The output folder {destination} is a file: choose another --output-dir.")
    if not destination.is_dir() or not any(destination.iterdir()):
        return None
    record = read_json(destination / SUBSET_FILE) if (destination / SUBSET_FILE).is_file() else {}
    if record.get("kind") != SUBSET_KIND:
        raise UserError(f"The output folder {destination} holds other files and no data subset of ours: {REMEDY}.")
    for key in sorted({*record["settings"], *settings}):
        one, other = (side.get(key, "nothing") for side in (record["settings"], settings))
        if one != other:
            raise UserError(
                f"The output folder {destination} holds another subset ({key} {one!r} there and {other!r} here): "
                f"{REMEDY}."
            )
    for name, path in _files(destination).items():
        if name != SUBSET_FILE and record["files"].get(name) != file_hash(path):
            raise UserError(f"{name} in the output folder {destination} was added or changed by others: {REMEDY}.")
    return record


def _hashes(configs: Json) -> Json:
    """The hash of the texts of every split."""
    return {config: {split: facts["sha256"] for split, facts in splits.items()} for config, splits in configs.items()}


def _files(folder: Path) -> dict[str, Path]:
    """The files of a folder by their names in it, sorted."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
