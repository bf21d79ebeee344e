"""`tlm release stage`: every repository of a release file as a folder `OUTPUT/owner/name`, all of them or none.

OUTPUT/owner/name/            what goes up, loadable by path from OUTPUT as `owner/name`
OUTPUT/owner/name@branch/     further revisions
OUTPUT/release.json           what there is, written last
OUTPUT/measured/              evaluations, kept so that the same release staged again is the same to the last byte
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..errors import UserError
from ..evaluation.classifier_facts import measure_classifier
from ..loading import weights_hash
from ..runs.atomic_files import flush_tree, write_json
from ..runs.output_folder import RESULTS_FILE
from ..runs.provenance import provenance
from ..training.finetune import NEW
from .data_folder import dataset_facts, stage_dataset
from .manifest import (
    BASE,
    MANIFEST_FILE,
    MEMBERS,
    build_manifest,
    dataset_command,
    describe_files,
    run_command,
    training_seconds,
    tree_hash,
)
from .model_folder import code_files, is_smoke, origins_of, stage_model_files, write_card
from .release_entries import (
    AdapterEntry,
    ClassifierEntry,
    CommitteeEntry,
    DataEntry,
    EncoderEntry,
    Entry,
    ModelEntry,
    Release,
    SpaceEntry,
)
from .release_file import read_release
from .release_links import check_links
from .safety import check_folder, without_paths
from .space_folder import space_code, space_variables, stage_space

logger = logging.getLogger(__name__)
RELEASE_FILE, VERIFIED_FILE, MEASURED = "release.json", "verified.json", "measured"
PARTIAL = ".partial"
OWNED = ".owned.json"
"""Folders that staging made, and may therefore replace."""


def read_results(folder: Path, kind: str) -> dict[str, Any]:
    """The results of a finished run of the right kind.

    Raises:
        UserError: the run has not finished, is of another kind, or its results are damaged.
    """
    try:
        found: dict[str, Any] = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The run {folder} has no {RESULTS_FILE}, so it has not finished: finish it first.") from error
    except ValueError as error:
        raise UserError(f"The results of the run {folder} are damaged ({error}): run it again.") from error
    wanted = {"encoder": "pretrain", "classifier": "finetune", "adapter": "finetune", "committee": "committee"}[kind]
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
        raise UserError(f"The results of the run {folder} are damaged (they have no settings): run it again.")
    if found.get("kind") != wanted:
        raise UserError(f"The run {folder} is a {found.get('kind')}, and {kind}s come from a {wanted}: name another.")
    if kind == "adapter" and not (folder / "adapter" / "adapter_model.safetensors").is_file():
        raise UserError(f"The run {folder} has no adapter: fine-tune with --lora-rank.")
    return found


def stage(
    release_file: str, output_dir: str, *, data_root: str | None = None, licence_checked: bool = False
) -> dict[str, Any]:
    """Build every repository of a release; an older staged release in the same folder is replaced whole.

    Args:
        release_file: YAML, see `release_file`.
        output_dir: where to.
        data_root: folder of real text, for the evaluations; None for the variable TLM_DATA.
        licence_checked: that rows may be re-published whose source gives them for some uses only (AG News).

    Returns:
        What `release.json` holds, and `table`, for people.

    Raises:
        UserError: a mistake in the release file, a run that has not finished, a licence that is unknown or was not
            checked, or content that must not go up; nothing is changed then.
    """
    release = read_release(release_file)
    output = Path(output_dir).expanduser()
    if release.namespace == MEASURED:
        raise UserError(
            f"The namespace {MEASURED!r} is the name of a folder of the release: stage it elsewhere by hand."
        )
    old = _check_output(output)
    for entry in release.entries:  # all that can be refused, before any long work
        if isinstance(entry, ModelEntry):
            for folder in (entry.run, *entry.revisions.values()):
                check_links(entry, read_results(folder, entry.kind))
        elif isinstance(entry, DataEntry):
            dataset_facts(entry, licence_checked)
    stager = _Stager(release, output, data_root)
    shutil.rmtree(output / PARTIAL, ignore_errors=True)
    try:
        repositories = [
            stager.stage(entry) for entry in tqdm(release.entries, desc="Staging", unit="repository", mininterval=1)
        ]
        flush_tree(output / PARTIAL)
    except BaseException:
        shutil.rmtree(output / PARTIAL, ignore_errors=True)
        raise
    record = {
        "version": release.version,
        "namespace": release.namespace,
        "visibility": release.visibility,
        "collection": None if release.collection is None else vars(release.collection),
        "repositories": repositories,
        "made_by": provenance(),
    }
    # Until all is in place there is no release, but the folders stay known as ours.
    write_json(output / OWNED, sorted({*old, *(name for each in repositories for name in each["tree"])}))
    for name in (RELEASE_FILE, VERIFIED_FILE):
        (output / name).unlink(missing_ok=True)
    for name in old:  # what the last release made, and nothing else
        shutil.rmtree(output / name, ignore_errors=True)
    for owner in (output / PARTIAL).iterdir():
        (output / owner.name).mkdir(exist_ok=True)
        for folder in owner.iterdir():
            folder.rename(output / owner.name / folder.name)
        owner.rmdir()
    (output / PARTIAL).rmdir()
    for owner in {Path(name).parent for name in old}:
        if (output / owner).is_dir() and not any((output / owner).iterdir()):
            (output / owner).rmdir()
    write_json(output / RELEASE_FILE, record)
    lines = [
        f"{each['kind']:<11}{each['repo_id']:<50}{each['files']:>4} files {each['bytes'] / 1e6:>8.1f} MB"
        for each in repositories
    ]
    lines.append(f"Staged in {output}; next: tlm release verify.")
    return {**record, "table": "\n".join(lines)}


def _check_output(output: Path) -> list[str]:
    """Refuse a folder that holds anything else than a staged release; returns the folders that staging made."""
    if output.exists() and not output.is_dir():
        raise UserError(f"The output folder {output} is a file: choose another --output-dir.")
    output.mkdir(parents=True, exist_ok=True)
    try:
        owned = [str(name) for name in json.loads((output / OWNED).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        owned = []
    expected = {output / name for name in (*owned, PARTIAL, MEASURED, RELEASE_FILE, VERIFIED_FILE, OWNED)}
    owners = {(output / name).parent for name in owned}
    there = [path for path in output.iterdir() if path not in owners]
    there += [path for owner in owners if owner.is_dir() for path in owner.iterdir()]
    if foreign := sorted(path for path in there if path not in expected):
        name = foreign[0].relative_to(output).as_posix()
        raise UserError(f"The output folder {output} holds other files ({name}): choose another --output-dir.")
    if not owned and (output / RELEASE_FILE).exists():
        raise UserError(f"The output folder {output} holds a release that was not staged there: choose another one.")
    return owned


class _Stager:
    """Stages one entry after the other; later ones refer to earlier ones."""

    def __init__(self, release: Release, output: Path, data_root: str | None) -> None:
        self.release, self.output, self.data_root = release, output, data_root
        self.places = [place for entry in release.entries for place in entry.folders.values()]
        self.places += [] if data_root is None else [Path(data_root)]
        self.weights: dict[str, str] = {}
        """Hashes of weights by name, and by `name@branch`."""
        self.smoke: dict[str, bool] = {}
        """Whether a run is of smoke size, by its weights' hash."""
        for entry in release.entries:
            if isinstance(entry, ModelEntry):
                self.weights[entry.name] = weights_hash(str(entry.run))
                for branch, run in entry.revisions.items():
                    self.weights[f"{entry.name}@{branch}"] = weights_hash(str(run))

    def folder(self, entry: Entry, revision: str | None = None) -> Path:
        name = self.release.repo_id(entry.name) + (f"@{revision}" if revision else "")
        return self.output / PARTIAL / name

    def stage(self, entry: Entry) -> dict[str, Any]:
        """Build the entry's folders; returns its part of `release.json`."""
        folder = self.folder(entry)
        folder.mkdir(parents=True)
        revisions: dict[str, str] = {}
        variables: dict[str, str] = {}
        if isinstance(entry, DataEntry):
            facts = stage_dataset(entry, self.release.repo_id(entry.name), folder, self.release.version)
            sources = {"configs": {config: {split: found["sha256"] for split, found in splits.items()}
                                   for config, splits in facts["configs"].items()}}  # fmt: skip
            self._finish(entry, folder, facts, dataset_command(facts), {}, {}, sources)
        elif isinstance(entry, SpaceEntry):
            variables = space_variables(entry, self.release)
            smoke = any(self.smoke.get(self.weights.get(name, ""), False) for name in entry.linked)
            stage_space(entry, self.release, folder, self.output / PARTIAL, smoke=smoke)
            self._finish(entry, folder, None, [], {}, space_code(), {})
        elif isinstance(entry, ModelEntry):
            self._stage_model(entry, entry.run, folder, None)
            for revision, run in entry.revisions.items():
                target = self.folder(entry, revision)
                target.mkdir(parents=True)
                self._stage_model(entry, run, target, revision)
                revisions[revision] = target.relative_to(self.output / PARTIAL).as_posix()
        return {
            "name": entry.name,
            "kind": entry.kind,
            "repo_type": entry.repo_type,
            "repo_id": self.release.repo_id(entry.name),
            "folder": folder.relative_to(self.output / PARTIAL).as_posix(),
            "revisions": revisions,
            "linked": list(dict.fromkeys(self.release.repo_id(link) for link in entry.linked)),
            "variables": variables,
            "files": sum(1 for path in folder.rglob("*") if path.is_file()),
            "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            "tree": {
                name: tree_hash(self.output / PARTIAL / name)
                for name in (folder.relative_to(self.output / PARTIAL).as_posix(), *revisions.values())
            },
        }

    def _stage_model(self, entry: ModelEntry, run: Path, folder: Path, branch: str | None) -> None:
        found, weights = read_results(run, entry.kind), self.weights[entry.name + (f"@{branch}" if branch else "")]
        results = without_paths(found, self.places)
        stage_model_files(entry, run, folder, self.release)
        evaluation = None
        if not isinstance(entry, EncoderEntry):
            kept = self.output / MEASURED / f"{folder.name}.json"
            evaluation = measure_classifier(run, found, weights, kept, self.data_root)
            evaluation = {key: value for key, value in evaluation.items() if key != "of"}
        write_json(folder / RESULTS_FILE, {**results, "evaluation": evaluation})
        settings = results["settings"]
        inputs = {} if settings.get("weights") == NEW else self._inputs(entry, results, branch)
        smoke = self.smoke[weights] = is_smoke(run, results, self.smoke)
        write_card(
            entry, self.release, folder, results, evaluation, training_seconds(results),
            {} if branch else entry.revisions, branch, origins_of(entry, inputs), smoke,
        )  # fmt: skip
        data = {key: settings[key] for key in settings if key.endswith("sha256") or key.endswith("revision")}
        data |= {key: results[key] for key in ("corpus", "task") if key in results}
        self._finish(entry, folder, results, run_command(results), inputs, code_files(folder), data)

    def _inputs(self, entry: ModelEntry, results: dict[str, Any], branch: str | None) -> dict[str, Any]:
        """Which repositories a run read, by their weights' hashes: that a name fits is not enough."""
        by_weights = {weights: name for name, weights in reversed(self.weights.items())}  # of equal ones the first
        settings = results["settings"]
        if isinstance(entry, CommitteeEntry):
            members = [by_weights.get(weights) for weights in settings["weights"]]
            for name in entry.members if branch is None else []:  # the run of a branch may have other members
                if "/" not in name and self.weights[name] not in settings["weights"]:
                    raise UserError(f"{entry.name} is not made of {name} (other weights): correct its members.")
            return {
                MEMBERS: [
                    {"repository": None if name is None else self.release.place(name), "weights": weights}
                    for name, weights in zip(members, settings["weights"], strict=True)
                ]
            }
        if not isinstance(entry, ClassifierEntry):
            return {}
        weights = settings["weights"]
        if entry.base is not None and "/" not in entry.base and weights not in self._of(entry.base):
            raise UserError(f"{entry.name} was not fine-tuned from {entry.base} (other weights): correct its base.")
        # Of repositories with equal weights the one that the release file names.
        if isinstance(entry, AdapterEntry) and weights != self.weights.get(entry.base or "", weights):
            raise UserError(
                f"{entry.name} was not fine-tuned from the main branch of {entry.base}, which peft would open: release "
                f"{by_weights[weights]} as a repository of its own."
            )
        base = entry.base if self.weights.get(entry.base or "") == weights else by_weights.get(weights, entry.base)
        return {BASE: {"repository": None if base is None else self.release.place(base), "weights": weights}}

    def _of(self, base: str) -> list[str]:
        """Weights that a base stands for: one branch's, or of a repository those of all its branches."""
        return [weights for name, weights in self.weights.items() if name == base or name.partition("@")[0] == base]

    def _finish(
        self, entry: Entry, folder: Path, results: Any, command: list[str], inputs: Any, code: Any, data: Any
    ) -> None:
        """The manifest, and a look at everything."""
        made = build_manifest(
            self.release.repo_id(entry.name), entry.kind, self.release.version, folder, results,
            command=command, inputs=inputs, code=code, data=data,
        )  # fmt: skip
        write_json(folder / MANIFEST_FILE, without_paths(made, self.places))
        check_folder(folder, code, self.places)


def read_staged(output_dir: str) -> tuple[Path, dict[str, Any]]:
    """The folder and `release.json` of a staged release.

    Raises:
        UserError: nothing is staged there, or it is damaged.
    """
    output = Path(output_dir).expanduser()
    try:
        found: dict[str, Any] = json.loads((output / RELEASE_FILE).read_text(encoding="utf-8"))
        for key in ("version", "namespace", "visibility", "collection", "repositories"):
            found[key]
    except OSError as error:
        raise UserError(f"There is no staged release in {output}: make one with `tlm release stage`.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{output / RELEASE_FILE} is damaged ({error}): stage again.") from error
    return output, found


def staged_folders(release: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Every folder of a staged release with its part of `release.json`: each repository, then its branches."""
    return [
        (entry, folder)
        for entry in release["repositories"]
        for folder in (entry["folder"], *entry["revisions"].values())
    ]


def check_files(folder: Path, tree: str) -> None:
    """Hold a staged folder against its manifest.

    Args:
        folder: the folder.
        tree: hash of the whole folder when it was staged, from `release.json`; it covers the manifest too.

    Raises:
        UserError: one sentence that names the file that was changed, added or removed.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder.name} has no whole {MANIFEST_FILE}: stage again.") from error
    there = describe_files(folder)
    for name in sorted({*manifest, *there}):
        if manifest.get(name) != there.get(name):
            what = "was added" if name not in manifest else "is missing" if name not in there else "was changed"
            raise UserError(f"{folder.name}/{name} {what} after the release was staged: stage and verify again.")
    if tree_hash(folder) != tree:
        raise UserError(
            f"{folder.name}/{MANIFEST_FILE} was changed after the release was staged: stage and verify again."
        )
