"""What the Space reads beside its models: the folder with `demo.json`, token counts, the study."""

import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from demo_models import (
    Classifier,
    DemoError,
    MaskFiller,
    escape,
    from_scratch,
    load_classifier,
    load_filler,
    named,
    plain,
)
from scipy.special import rel_entr

Json = dict[str, Any]
HERE = Path(__file__).absolute().parent  # not resolved: in a copy from the Hub the files are links into its cache
CHECKOUT = HERE.parent.parent
MIN_COUNT = 10
"""A token counts as seen when it is at least so often in the pre-training text."""
SHOWN_TOKENS = 400
LONGEST_OVERLAP = 500_000
"""Characters of a text whose overlap is measured: more take seconds."""
BROKEN = (OSError, ValueError, KeyError, EOFError, IndexError, zipfile.BadZipFile)
"""What numpy raises for a file that is missing, cut short or something else."""
HOW_TO_MAKE = (
    "Make one with `bash scripts/quickstart.sh` (6 minutes; `--smoke` for two), or name a folder with `demo.json` in "
    "the environment variable `TLM_DEMO`."
)


@dataclass
class Task:
    """One task: its models, or why they are not there, and the scores of each committee of its members."""

    name: str
    title: str
    examples: list[str]
    committee: Classifier | None = None
    deep: Classifier | None = None
    members: list[str] = field(default_factory=list)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    trouble: str = ""


@dataclass
class Demo:
    """All that the tabs show; `plots` is the study's folder, `trouble` says in Markdown what is missing."""

    tasks: dict[str, Task] = field(default_factory=dict)
    fillers: dict[str, MaskFiller] = field(default_factory=dict)
    corpus: Json = field(default_factory=dict)
    counts: np.ndarray | None = None
    study: Json | None = None
    plots: Path | None = None
    trouble: list[str] = field(default_factory=list)


def find_folder() -> Path | None:
    """The folder with `demo.json`: that of `TLM_DEMO`, the one beside the app, or what the quickstart left."""
    if os.environ.get("TLM_DEMO"):
        return Path(os.environ["TLM_DEMO"]).expanduser()
    runs = CHECKOUT / "outputs"
    places = [HERE / "demo", *(runs / name / "release/demo" for name in ("quickstart", "quickstart-smoke"))]
    return next((place for place in places if (place / "demo.json").is_file()), None)


def load_demo() -> Demo:
    """Load everything; what cannot be loaded is said in `trouble`, and the rest of the page works."""
    demo, folder = Demo(), find_folder()
    _load_study(CHECKOUT / "results/study/laptop/rows.json", demo)
    if folder is None or not (folder / "demo.json").is_file():
        where = "" if folder is None else f" in `{folder.name}`, which `TLM_DEMO` names"
        demo.trouble.append(f"There is no `demo.json`{where}. {HOW_TO_MAKE}")
        return demo
    try:
        found = _read(folder / "demo.json", "tasks", "corpus", "encoders")
        committees, deep, own = (named(f"TLM_DEMO_{name}") for name in ("COMMITTEES", "DEEP", "ENCODERS"))
        known = [entry["name"] for entry in found["tasks"]]
        unknown = [name for name in (*committees, *deep) if name not in known]
        if unknown:
            raise DemoError(f"TLM_DEMO_... names the task {unknown[0]!r}: choose among {', '.join(known)}.")
    except DemoError as error:
        demo.trouble.append(escape(error))
        return demo
    demo.corpus = found["corpus"]
    for entry in found["tasks"]:
        task = _load_task(folder, entry, committees.get(entry["name"]), deep.get(entry["name"]))
        demo.tasks[task.name] = task
        if task.trouble:
            demo.trouble.append(escape(task.trouble))
    for name, source in (own or found["encoders"]).items():
        try:
            demo.fillers[name] = load_filler(name, *_source(folder, source, bool(own)))
        except DemoError as error:
            demo.trouble.append(escape(error))
    if demo.fillers:
        scratch = from_scratch(next(iter(demo.fillers.values())))
        demo.fillers[scratch.name] = scratch
    demo.counts = _counts(folder / demo.corpus["counts"], demo)
    if found.get("study"):
        _load_study(folder / found["study"], demo)
    return demo


def _read(file: Path, *keys: str) -> Json:
    """A JSON file that has these keys; DemoError where it cannot be read."""
    try:
        content: Json = json.loads(file.read_text(encoding="utf-8"))
        missing = [key for key in keys if key not in content]
    except (OSError, ValueError, TypeError) as error:
        raise DemoError(f"{file.parent.name}/{file.name} cannot be read. {HOW_TO_MAKE}") from error
    if missing:
        raise DemoError(f"{file.parent.name}/{file.name} has no {missing[0]!r}. {HOW_TO_MAKE}")
    return content


def _counts(file: Path, demo: Demo) -> np.ndarray | None:
    """How often each token is in the pre-training text; None, and a word about it, where that is not known."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            counts: np.ndarray = stored["counts"]
    except BROKEN:
        demo.trouble.append("The token counts of the pre-training text are missing, so the tab Overlap is empty.")
        return None
    if demo.fillers and len(counts) != len(next(iter(demo.fillers.values())).tokenizer):
        demo.trouble.append("The token counts are those of another vocabulary, so the tab Overlap is empty.")
        return None
    return counts


def _source(folder: Path, source: str, is_hub: bool) -> tuple[str, bool]:
    """Where a model lies, and whether its code may run: that of folders on this machine may."""
    if is_hub:
        return source, os.environ.get("TLM_DEMO_TRUST") == "1"
    return str((folder / source).resolve()), True


def _load_study(file: Path, demo: Demo) -> None:
    """What the study's report wrote, where there is one."""
    try:
        if file.is_file():
            demo.study, demo.plots = _read(file, "rows"), file.parent
    except DemoError as error:
        demo.trouble.append(f"The tab Findings is empty: {escape(error)}")


def _load_task(folder: Path, entry: Json, committee: str | None, deep: str | None) -> Task:
    task = Task(entry["name"], entry["title"], entry["examples"], members=entry["members"], scores=entry["scores"])
    try:
        task.committee = load_classifier(*_source(folder, committee or entry["committee"], committee is not None))
        if deep or entry["deep"]:
            task.deep = load_classifier(*_source(folder, deep or entry["deep"], deep is not None))
    except DemoError as error:
        task.trouble = f"{error} {HOW_TO_MAKE}"
    return task


def build_committee(task: Task, chosen: list[int]) -> list[Json]:
    """Scores on test texts of a committee of chosen members, of each of them, and of the deep encoder.

    Each has its own temperature, fitted on the validation texts; the committee averages probabilities.
    """
    if not chosen:
        raise DemoError("No member is chosen: tick at least one.")
    names = {f"committee of {len(chosen)}": " ".join(map(str, sorted(chosen)))}
    names |= {task.members[place]: str(place) for place in chosen}
    names |= {"the deep encoder": "deep"} if "deep" in task.scores else {}
    return [{"model": name, **task.scores[key]} for name, key in names.items()]


def findings_table(study: Json, finding: str, task: str) -> pd.DataFrame:
    """The rows of a finding on a task as `model`, `x`, `measure`, `estimate`, `low`, `high` (percent), `seeds`."""
    columns = ["model", "x", "measure", "estimate", "low", "high", "seeds"]
    rows = pd.DataFrame(study["rows"], columns=["finding", "task", *columns])
    table = rows.loc[(rows["finding"] == finding) & (rows["task"] == task), columns]
    shares = (100 * table[["estimate", "low", "high"]].astype(float)).round(2)
    return table.assign(**shares, x=table["x"].astype(str))


def measure_overlap(text: str, demo: Demo) -> tuple[dict[str, float], str, list[str]]:
    """Token overlap of a text with the pre-training corpus: numbers, HTML with unseen tokens marked, notes.

    Seen is what the corpus has at least `MIN_COUNT` times; the divergence is Jensen-Shannon's in bits.
    """
    tokenizer = next(iter(demo.fillers.values())).tokenizer
    words, notes = plain(text), []
    if not words:
        raise DemoError("The text is empty: write one.")
    if len(words) > LONGEST_OVERLAP:
        notes.append(f"Only the first {LONGEST_OVERLAP:,} of {len(words):,} characters were looked at.")
        words = words[:LONGEST_OVERLAP]
    ids = np.array(tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"], dtype=int)
    is_known = ~np.isin(ids, tokenizer.all_special_ids)
    if not is_known.any():
        raise DemoError("The text has no token that the encoders know: write English words.")
    task, seen = np.bincount(ids[is_known], minlength=len(demo.counts)), demo.counts >= MIN_COUNT
    present = task > 0
    P, Q = demo.counts / demo.counts.sum(), task / task.sum()
    middle = (P + Q) / 2
    found = {
        "tokens": int(task.sum()),
        "types": int(present.sum()),
        "types_seen": float((present & seen).sum() / present.sum()),
        "occurrences_seen": float(task[seen].sum() / task.sum()),
        "divergence": float((rel_entr(P, middle).sum() + rel_entr(Q, middle).sum()) / 2 / np.log(2)),
    }
    marks = []
    shown = tokenizer.convert_ids_to_tokens(ids[:SHOWN_TOKENS].tolist())
    for token, known, word in zip(ids, is_known, shown, strict=False):
        title = f"{demo.counts[token]:,} times in the pre-training text" if known else "an unknown sign"
        tag = "span" if known and seen[token] else "mark"
        marks.append(f'<{tag} title="{title}">{escape(word)}</{tag}>')
    if not is_known.all():
        notes.append(f"{(~is_known).sum():,} signs that the encoders do not know are not counted.")
    if len(ids) > SHOWN_TOKENS:
        notes.append(f"Shown are the first {SHOWN_TOKENS} of {len(ids):,} tokens.")
    return found, " ".join(marks), notes
