"""Data set folders: parquet files, a card and the facts, ready to push and loadable by path with `datasets` alone.

<folder>/<configuration>/<split>-00000-of-00001.parquet
<folder>/README.md      the card: its YAML names each file, so that a stale one beside it is never read
<folder>/subset.json    facts of every split, the leakage report, hashes of the files, and how they were made
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets

from ..errors import UserError
from ..runs.atomic_files import Json, file_hash, whole_folder, write_json
from ..runs.provenance import portable, portable_path, provenance
from .dataset_card import Tables, file_name, render_dataset_card
from .leakage import SUBSET_FILE, SUBSET_KIND
from .prepare import Prepared, PrepareDataArguments, prepare
from .sources import facts_of

NOT_SETTINGS = ("output_dir", "data_root")


def prepare_data(arguments: PrepareDataArguments) -> Json:
    """Make a data set folder, ready to push, of a corpus in nested sizes or of a task, with a leakage report.

    The same command elsewhere gives the same parquet files, byte for byte.

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

    Raises UserError where there is no name, or the folder cannot be made or holds files.
    """
    if not arguments.output_dir:
        raise UserError("--output-dir is missing: name the folder to make.")
    destination = Path(arguments.output_dir).expanduser().resolve()
    if not destination.name:
        raise UserError(f"{destination} cannot name a data set folder: choose another --output-dir.")
    settings = {key: value for key, value in asdict(arguments).items() if key not in NOT_SETTINGS}
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{destination} cannot be written ({error.strerror}): choose another --output-dir.") from error
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise UserError(f"The output folder {destination} is there already: choose another --output-dir, or remove it.")
    return destination, portable(settings)


def write_dataset_folder(prepared: Prepared, destination: Path, settings: Json) -> Json:
    """Write subsets as a folder that `datasets.load_dataset(folder, configuration)` opens; returns its `subset.json`.

    Raises UserError where it cannot be written.
    """
    facts: Json = {
        config: {split: facts_of(rows) for split, rows in splits.items()} for config, splits in prepared.configs.items()
    }
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
    try:
        with whole_folder(destination) as folder:
            _write_files(prepared, record, folder)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise UserError(f"{destination.name} cannot be written ({reason}): choose another --output-dir.") from error
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
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    record["files"] = {path.relative_to(folder).as_posix(): file_hash(path) for path in files}
    write_json(folder / SUBSET_FILE, record)
