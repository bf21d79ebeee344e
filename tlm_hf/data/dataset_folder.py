"""Data set folders: parquet files, a card and the facts, ready to push and loadable by path with `datasets` alone.

<folder>/<configuration>/<split>-00000-of-00001.parquet
<folder>/README.md      the card: its YAML names each file, so that a stale one beside it is never read
<folder>/subset.json    facts of every split, the leakage report, hashes of the files, what they were made from, and how
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets

from ..errors import UserError
from ..runs.atomic_files import file_hash, write_json
from ..runs.provenance import portable, portable_path, provenance
from .dataset_card import file_name, render_dataset_card
from .lineage import SUBSET_FILE, SUBSET_KIND
from .prepare import Prepared, PrepareDataArguments, prepare
from .sources import text_hash
from .subsets import facts_of

CARD_FILE = "README.md"
NOT_SETTINGS = ("output_dir", "json", "data_root")


def prepare_data(arguments: PrepareDataArguments) -> dict[str, Any]:
    """Make a data set folder, ready to push, of a corpus in nested sizes or of a task, with a leakage report.

    The same command again gives the same parquet files, byte for byte; a folder of another subset is refused.

    Raises:
        UserError: see `data.prepare.prepare` and `write_dataset_folder`.
    """
    destination, settings = open_destination(arguments)
    others = _read_facts_file(arguments.json)
    record = write_dataset_folder(prepare(arguments), destination, settings)
    if arguments.json is not None:
        write_json(Path(arguments.json), dict(sorted({**others, record["name"]: record}.items())))
    return {
        **record,
        "output_dir": arguments.output_dir,
        "rows": {
            config: {split: facts["rows"] for split, facts in splits.items()}
            for config, splits in record["configs"].items()
        },
        "leaking": {
            config: {
                " / ".join(check["between"]): check["training"]["exact"] + check["training"]["near"] for check in checks
            }
            for config, checks in record["leakage"].items()
        },
    }


def open_destination(arguments: Any) -> tuple[Path, dict[str, Any]]:
    """The folder that a command is to make and the settings that choose its rows, before any work.

    Args:
        arguments: the command's options, a dataclass with `output_dir`.

    Raises:
        UserError: no such name, or see `check_destination`.
    """
    if not arguments.output_dir:
        raise UserError("--output-dir is missing: name the folder to make.")
    destination = Path(arguments.output_dir).expanduser()
    if not destination.resolve().name:
        raise UserError(f"{destination} is no name for a data set folder: choose another --output-dir.")
    settings = {key: value for key, value in asdict(arguments).items() if key not in NOT_SETTINGS}
    settings = portable(json.loads(json.dumps(settings)))
    _, old = _beside(destination)
    if old.is_dir() and not destination.exists():  # a command that was killed between its two renames
        old.rename(destination)
    check_destination(destination, settings)
    return destination, settings


def check_destination(destination: Path, settings: dict[str, Any], hashes: dict[str, str] | None = None) -> None:
    """Raise UserError unless the folder is new, empty, or holds what these settings wrote, untouched since.

    Args:
        destination: the folder to make.
        settings: what chooses the rows.
        hashes: SHA-256 of the texts by `configuration/split`; None before they are known.
    """
    remedy = "choose another --output-dir, or remove it"
    if destination.exists() and not destination.is_dir():
        raise UserError(f"The output folder {destination} is a file: choose another --output-dir.")
    if not destination.is_dir() or not any(destination.iterdir()):
        return
    try:
        there = json.loads((destination / SUBSET_FILE).read_text(encoding="utf-8"))
        kind, known, files = there["kind"], there["settings"], there["files"]
        old = {f"{config}/{split}": facts["sha256"] for config, splits in there["configs"].items()
               for split, facts in splits.items()}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        kind = None
    if kind != SUBSET_KIND:
        raise UserError(f"The output folder {destination} holds other files and no data subset of ours: {remedy}.")
    differing = [key for key in sorted({*known, *settings}) if known.get(key) != settings.get(key)]
    if differing:
        shown = [[repr(side[key]) if key in side else "nothing" for side in (known, settings)] for key in differing[:3]]
        details = ", ".join(
            f"{key} {there} there and {here} here" for key, (there, here) in zip(differing[:3], shown, strict=True)
        )
        raise UserError(f"The output folder {destination} holds another subset ({details}): {remedy}.")
    if hashes is not None and hashes != old:
        which = next(key for key in sorted({*hashes, *old}) if hashes.get(key) != old.get(key))
        raise UserError(f"The output folder {destination} holds other texts in {which} (the source changed): {remedy}.")
    present = {
        path.relative_to(destination).as_posix(): path for path in sorted(destination.rglob("*")) if path.is_file()
    }
    for name, path in present.items():
        if name != SUBSET_FILE and files.get(name) != file_hash(path):
            raise UserError(f"{name} in the output folder {destination} was added or changed by others: {remedy}.")


def write_dataset_folder(prepared: Prepared, destination: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Write subsets as a folder that `datasets.load_dataset(folder, configuration)` opens, features and all.

    The folder is made under another name beside it and renamed when it is whole; nothing is left of one that was
    interrupted. What it holds depends on the subsets alone, but for the provenance in `subset.json` and the card.

    Args:
        prepared: see `data.prepare`.
        destination: the folder; its name is the data set's.
        settings: what chose the rows, without paths of this machine.

    Returns:
        What `subset.json` holds.

    Raises:
        UserError: the folder holds something else (see `check_destination`), or it cannot be written.
    """
    tables = {
        config: {split: _plain(rows) for split, rows in splits.items()} for config, splits in prepared.configs.items()
    }
    facts = {
        config: {split: _facts(prepared.configs[config][split], table) for split, table in splits.items()}
        for config, splits in tables.items()
    }
    hashes = {
        f"{config}/{split}": found["sha256"] for config, splits in facts.items() for split, found in splits.items()
    }
    check_destination(destination, settings, hashes)
    destination = destination.resolve()
    partial, old = _beside(destination)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for config, splits in tables.items():
            (partial / config).mkdir()
            for split, table in splits.items():
                table.to_parquet(str(partial / file_name(config, split)))
        record: dict[str, Any] = {
            "kind": SUBSET_KIND,
            "name": destination.name,
            "settings": settings,
            "made_from": prepared.made_from,
            "configs": facts,
            "leakage": prepared.leakage,
            **provenance(),
        }
        record = portable(record)
        origin = prepared.made_from["origin"] if prepared.made_from else portable_path(prepared.source)
        card = render_dataset_card(record, prepared.kind, origin, tables, partial)
        (partial / CARD_FILE).write_text(card, encoding="utf-8")
        record["files"] = {
            path.relative_to(partial).as_posix(): file_hash(path)
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        write_json(partial / SUBSET_FILE, record)
        if destination.exists():
            shutil.rmtree(old, ignore_errors=True)
            destination.rename(old)
        partial.rename(destination)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if old.is_dir() and not destination.exists():
            old.rename(destination)
        if isinstance(error, OSError):
            reason = error.strerror or str(error).splitlines()[0] or type(error).__name__
            raise UserError(
                f"The data set folder {destination.name} cannot be written ({reason}), so nothing was: make room, or "
                "choose another --output-dir."
            ) from error
        raise
    return record


def _beside(destination: Path) -> tuple[Path, Path]:
    """Where a folder is made, and where its predecessor stands while the new one takes its place."""
    whole = destination.resolve()
    return whole.with_name(f".{whole.name}.partial"), whole.with_name(f".{whole.name}.old")


def _plain(rows: datasets.Dataset) -> datasets.Dataset:
    """The same rows in one piece, without indices or history, so that equal rows give equal files."""
    return datasets.Dataset.from_dict({name: rows[name][:] for name in rows.column_names}, features=rows.features)


def _facts(rows: datasets.Dataset, table: datasets.Dataset) -> dict[str, Any]:
    found = {**facts_of(rows), "rows": len(table), "sha256": text_hash(table["text"][:])}
    if "label" in table.column_names and "per_label" not in found:
        names, labels = table.features["label"].names, table["label"][:]
        found["per_label"] = {name: labels.count(index) for index, name in enumerate(names)}
    return found


def _read_facts_file(path: str | None) -> dict[str, Any]:
    """The entries of the file that --json names; empty when there is none yet (its folder is made)."""
    if path is None:
        return {}
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if not Path(path).exists():
            return {}
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if all(entry["kind"] == SUBSET_KIND for entry in found.values()):
            return found
    except OSError as error:
        raise UserError(f"{path} cannot be used ({error.strerror}): choose another --json.") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{path} is there and holds something else than facts of data subsets: choose another --json.")
