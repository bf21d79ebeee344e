"""`tlm study export`: a study's records to publish, with the logits that its report reads."""

import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import UserError, refusing
from ..evaluation.scoring import LOGIT_STEP
from ..option_fields import option
from ..runs.atomic_files import Json, whole_folder
from ..runs.output_folder import RESULTS_FILE
from ..training.finetune import LOGITS_FILE
from .execute import CONFIG_FILE
from .findings import Findings
from .plan import COMMITTEE
from .study import StudyArguments, check_arguments, read_state

COARSE_STEP = 2.0  # nats, of logits where the report reads only whether an answer is right


@dataclass
class ExportArguments(StudyArguments):
    """Options of `tlm study export`."""

    output_dir: str = option("", "New folder.")


def export_study(arguments: ExportArguments) -> Json:
    """Copy the records of the plan's runs into a new folder, `runs` in it; returns how many, and megabytes of logits.

    Logits that the report does not read are left out. Where it reads only whether an answer is right, they are rounded
    to `COARSE_STEP`; each text keeps its largest. So a report of the new folder has the same rows. Raises UserError for
    a folder that exists or cannot be written, before any work, and for a damaged record.
    """
    plan, target = check_arguments(arguments), Path(arguments.output_dir).expanduser()
    if not arguments.output_dir:
        raise UserError("study export needs --output-dir, a new folder.")
    if target.exists() or target.is_symlink():
        raise UserError(f"--output-dir {target} exists: name a new folder.")
    state = read_state(replace(arguments, findings=[], tasks=[], recipes=[]), plan)
    source, size = arguments.results_folder / "runs", 0
    if not state.records:
        raise UserError(f"{arguments.results_folder} has no finished run of the plan.")
    unwritable = refusing(f"--output-dir {target} cannot be written", "name another folder", OSError)
    with unwritable, whole_folder(target) as draft:
        findings = Findings(state.planner, state.records, source)
        findings.rows()
        points = [point for task in plan.tasks for point in state.planner.points(task) if point.finding == COMMITTEE]
        averaged = {run.name for point in points for runs in state.planner.runs(point).values() for run in runs}
        for name in state.records:
            copy = draft / "runs" / name
            copy.mkdir(parents=True)
            for file in (CONFIG_FILE, RESULTS_FILE):
                shutil.copyfile(source / name / file, copy / file)
            if splits := findings.splits_read(name):
                with np.load(source / name / LOGITS_FILE, allow_pickle=False) as stored:
                    kept = {key: stored[key] for key in stored if key.removesuffix("_labels") in splits}
                if name not in averaged:
                    kept |= {split: round_logits(kept[split]) for split in splits}
                size += write_arrays(copy / LOGITS_FILE, kept)
    return {"output_dir": str(target), "records": len(state.records), "megabytes_of_logits": round(size / 1e6, 1)}


def round_logits(packed: np.ndarray) -> np.ndarray:
    """Packed logits (..., classes), see `pack_logits`, as multiples of `COARSE_STEP`; only the largest is at 0."""
    step = round(COARSE_STEP / LOGIT_STEP)
    steps = np.clip(np.rint(packed / step), packed > 0, np.iinfo(np.uint16).max // step)
    return (steps * step).astype(np.uint16)


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> int:
    """Write a file for `numpy.load`, by bzip2 (a third smaller than `savez_compressed`); returns its bytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)
    return file.stat().st_size
