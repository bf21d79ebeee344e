"""`tlm release stage`: every repository of a release file as a folder `OUTPUT/owner/name`, all of them or none.

OUTPUT/owner/name/            what goes up, loadable by path from OUTPUT as `owner/name`
OUTPUT/owner/name@branch/     further revisions
OUTPUT/release.json           what is staged; it also says which folders the next staging may replace
OUTPUT/.measured/             evaluations, so that the same release staged again is the same to the last byte
"""

import logging
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from tqdm.auto import tqdm

from ..cards import render_card
from ..errors import UserError
from ..evaluation.classifier_facts import measure_classifier
from ..loading import weights_hash
from ..runs.atomic_files import Json, flush_tree, read_json, write_json
from ..runs.output_folder import RESULTS_FILE
from ..runs.provenance import provenance
from ..training.finetune import NEW
from .data_folder import dataset_facts, stage_dataset
from .manifest import (
    BASE,
    MANIFEST_FILE,
    MEMBERS,
    RELEASE_FILE,
    Origin,
    Repository,
    StagedRelease,
    build_manifest,
    dataset_command,
    read_record,
    run_command,
    tree_hash,
)
from .model_folder import SourceRun, card_facts, code_files, copy_model_files, is_smoke
from .release_file import KINDS, Entry, Release, read_release
from .safety import check_folder, without_paths
from .space_folder import space_code, space_variables, stage_space
from .verify import VERIFIED_FILE

logger = logging.getLogger(__name__)
PARTIAL, MEASURED = ".partial", ".measured"
RUN_KINDS = {"encoder": "pretrain", "classifier": "finetune", "adapter": "finetune", "committee": "committee"}


def stage(release_file: str, output_dir: str, *, data_root: str | None = None, licence_checked: bool = False) -> Json:
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
    old = _staged_before(output)
    stager = _Stager(release, output, data_root, licence_checked)
    shutil.rmtree(output / PARTIAL, ignore_errors=True)
    try:
        entries = tqdm(release.entries, desc="Staging", unit="repository", mininterval=1)
        repositories = [stager.stage(entry) for entry in entries]
        flush_tree(output / PARTIAL)
        collection = None if release.collection is None else asdict(release.collection)
        staged = StagedRelease(
            output, release.version, release.namespace, release.visibility, collection, repositories, provenance()
        )
        _replace(old, staged)
    finally:
        shutil.rmtree(output / PARTIAL, ignore_errors=True)
    lines = [
        f"{each.kind:<11}{each.repo_id:<50}{each.files:>4} files {each.bytes / 1e6:>8.1f} MB" for each in repositories
    ]
    lines.append(f"Staged in {output}; next: tlm release verify.")
    return {**staged.record(), "table": "\n".join(lines)}


def read_results(folder: Path, kind: str) -> Json:
    """The results of a finished run of the right kind.

    Raises:
        UserError: the run has not finished, is of another kind, or its results are damaged.
    """
    if not (folder / RESULTS_FILE).is_file():
        raise UserError(f"The run {folder} has no {RESULTS_FILE}, so it has not finished: finish it first.")
    results = read_json(folder / RESULTS_FILE)
    run_kind = results.get("kind")
    if run_kind != RUN_KINDS[kind]:
        raise UserError(f"The run {folder} is a {run_kind}, and {kind}s come from a {RUN_KINDS[kind]}: name another.")
    if kind == "adapter" and not (folder / "adapter" / "adapter_model.safetensors").is_file():
        raise UserError(f"The run {folder} has no adapter: fine-tune with --lora-rank.")
    return results


def _check_origin(entry: Entry, results: Json) -> None:
    """Refuse a base and members elsewhere that the run has not recorded; those of this release go by their weights."""
    for name in entry.members:
        if "/" in name and name.partition("@")[0] not in results["members"]:
            members = ", ".join(results["members"])
            raise UserError(f"{entry.name} is not made of {name} (its run names {members}): correct its members.")
    if entry.base is None:
        return
    is_new = results["settings"]["weights"] == NEW
    if is_new or ("/" in entry.base and entry.base.partition("@")[0] != results["model"]):
        source = "was trained from scratch" if is_new else f"names {results['model']}"
        raise UserError(f"{entry.name} was not fine-tuned from {entry.base} (its run {source}): correct its base.")


def _staged_before(output: Path) -> list[str]:
    """Folders of the release that is staged there; anything else that is there is refused."""
    if output.exists() and not output.is_dir():
        raise UserError(f"The output folder {output} is a file: choose another --output-dir.")
    output.mkdir(parents=True, exist_ok=True)
    old = [folder for _, folder in read_record(output).folders] if (output / RELEASE_FILE).exists() else []
    owners = {(output / name).parent for name in old}
    present = [path for path in output.iterdir() if path not in owners]
    present += [path for owner in owners if owner.is_dir() for path in owner.iterdir()]
    expected = {output / name for name in (*old, PARTIAL, MEASURED, RELEASE_FILE, VERIFIED_FILE)}
    if foreign := sorted(set(present) - expected):
        name = foreign[0].relative_to(output)
        raise UserError(f"The output folder {output} holds other files ({name}): choose another --output-dir.")
    return old


def _replace(old: list[str], staged: StagedRelease) -> None:
    """Put the new folders in place of the old ones; killed at any point, the record names every folder that is there.

    A release that was replaced by half is not verified, so it cannot be pushed, and can be staged again.
    """
    output = staged.output
    (output / VERIFIED_FILE).unlink(missing_ok=True)
    for name in old:
        shutil.rmtree(output / name, ignore_errors=True)
    for owner in {(output / name).parent for name in old}:
        if owner.is_dir():
            owner.rmdir()
    write_json(output / RELEASE_FILE, staged.record())
    for _, folder in staged.folders:
        (output / folder).parent.mkdir(exist_ok=True)
        (output / PARTIAL / folder).rename(output / folder)


class _Stager:
    """Stages one entry after the other; all that can be refused is refused when it is made, before any long work."""

    def __init__(self, release: Release, output: Path, data_root: str | None, licence_checked: bool) -> None:
        self.release, self.output, self.data_root = release, output, data_root
        self.root = output / PARTIAL
        self.private = [] if data_root is None else [Path(data_root)]
        self.runs: dict[str, SourceRun] = {}
        """By name, and by `name@branch`."""
        for entry in release.entries:
            self.private += [entry.source, *entry.revisions.values()]
            if entry.kind == "data":
                dataset_facts(entry, licence_checked)
            if not entry.is_model:
                continue
            for branch, folder in [(None, entry.source), *entry.revisions.items()]:
                results = read_results(folder, entry.kind)
                _check_origin(entry, results)
                run = SourceRun(entry, folder, branch, results, weights_hash(str(folder)))
                self.runs[run.label] = run
        self.inputs = {label: self._inputs(run) for label, run in self.runs.items()}

    def stage(self, entry: Entry) -> Repository:
        """Build the entry's folders; returns its part of `release.json`."""
        repo_id = self.release.repo_id(entry.name)
        folders = {None: repo_id} | {branch: f"{repo_id}@{branch}" for branch in entry.revisions}
        for branch, name in folders.items():
            folder = self.root / name
            folder.mkdir(parents=True)
            origin = self._fill(entry, branch, folder)
            manifest = build_manifest(repo_id, entry.kind, self.release.version, folder, origin)
            write_json(folder / MANIFEST_FILE, without_paths(manifest, self.private))
            check_folder(folder, origin.code, self.private)
        files = [path for path in (self.root / repo_id).rglob("*") if path.is_file()]
        return Repository(
            name=entry.name,
            kind=entry.kind,
            repo_type=KINDS[entry.kind].repo_type,
            repo_id=repo_id,
            folder=repo_id,
            revisions={branch: name for branch, name in folders.items() if branch is not None},
            linked=list(dict.fromkeys(self.release.repo_id(link) for _, link in entry.links)),
            variables=space_variables(entry, self.release) if entry.kind == "space" else {},
            files=len(files),
            bytes=sum(path.stat().st_size for path in files),
            tree={name: tree_hash(self.root / name) for name in folders.values()},
        )

    def _fill(self, entry: Entry, branch: str | None, folder: Path) -> Origin:
        """Everything in a folder but its manifest; returns what it was made from."""
        if entry.kind == "space":
            smoke = any(is_smoke(self.runs[name].folder) for _, name in entry.links if name in self.runs)
            stage_space(entry, self.release, folder, self.root, smoke=smoke)
            return Origin(code=space_code())
        if entry.kind == "data":
            facts = stage_dataset(entry, self.release.repo_id(entry.name), folder, self.release.version)
            hashes = {
                config: {split: rows["sha256"] for split, rows in splits.items()}
                for config, splits in facts["configs"].items()
            }
            return Origin(facts, dataset_command(facts), data={"configs": hashes})
        return self._fill_model(self.runs[f"{entry.name}@{branch}" if branch else entry.name], folder)

    def _fill_model(self, run: SourceRun, folder: Path) -> Origin:
        entry = run.entry
        copy_model_files(run, folder, self.release)
        evaluation = None
        if entry.kind != "encoder":
            cached = self.output / MEASURED / f"{folder.name}.json"
            evaluation = measure_classifier(run.folder, run.results, run.weights, cached, self.data_root)
            evaluation = {key: value for key, value in evaluation.items() if key != "of"}
        run = replace(run, results=without_paths(run.results, self.private))
        results, settings = run.results, run.results["settings"]
        write_json(folder / RESULTS_FILE, {**results, "evaluation": evaluation})
        inputs = self.inputs[run.label]
        facts = card_facts(run, self.release, folder, evaluation, inputs)
        card = render_card(entry.kind, self.release.repo_id(entry.name), results, facts)
        (folder / "README.md").write_text(card, encoding="utf-8")
        data = {key: value for key, value in settings.items() if key.endswith(("sha256", "revision"))}
        data |= {key: results[key] for key in ("corpus", "task") if key in results}
        return Origin(results, run_command(results), inputs, code_files(folder), data)

    def _inputs(self, run: SourceRun) -> Json:
        """Which repositories a run read, by their weights' hashes: a name that fits is not enough."""
        entry, read = run.entry, run.results["settings"].get("weights")
        weights = {label: each.weights for label, each in self.runs.items()}
        labels = {digest: label for label, digest in reversed(weights.items())}  # of equal ones the first
        if entry.kind == "encoder":  # one that was continued has a base
            return {BASE: self._input(labels.get(read), read)} if read else {}
        if read == NEW:
            return {}
        if entry.kind == "committee":
            for name in entry.members if run.branch is None else []:  # the run of a branch may have other members
                if "/" not in name and weights[name] not in read:
                    raise UserError(f"{entry.name} is not made of {name} (other weights): correct its members.")
            return {MEMBERS: [self._input(labels.get(digest), digest) for digest in read]}
        base = entry.base
        if base is None or "/" in base:
            return {BASE: self._input(labels.get(read, base), read)}
        if read not in [digest for label, digest in weights.items() if base in (label, label.partition("@")[0])]:
            raise UserError(f"{entry.name} was not fine-tuned from {base} (other weights): correct its base.")
        if weights[base] == read:  # of repositories with equal weights the one that the release file names
            return {BASE: self._input(base, read)}
        if entry.kind == "adapter":
            raise UserError(
                f"{entry.name} was not fine-tuned from the main branch of {base}, which peft would open: release "
                f"{labels[read]} as a repository."
            )
        return {BASE: self._input(labels[read], read)}

    def _input(self, name: str | None, weights: str) -> Json:
        return {"repository": None if name is None else self.release.place(name), "weights": weights}
