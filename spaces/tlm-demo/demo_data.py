"""What the Space reads beside its models: the folder with `demo.json`, token counts, the study."""

import json
import os
import random
import re
import statistics
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from demo_models import DemoError, Model, clean_text, from_scratch, load, take_members
from scipy.spatial.distance import jensenshannon

Json = dict[str, Any]
HERE = Path(__file__).absolute().parent  # not resolved: in a copy from the Hub the files are links into its cache
CHECKOUT = HERE.parent.parent
MIN_COUNT = 10
"""A token counts as seen when it is at least so often in the pre-training text."""
LONGEST_OVERLAP, SHOWN_TOKENS = 500_000, 400
"""Characters of a text whose overlap is measured (more take seconds), and tokens of it that are shown."""
RACE_TEXTS = 200
BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, IndexError, zipfile.BadZipFile)
"""What json and numpy raise for a file that is missing, cut short or something else."""
HOW_TO_MAKE = (
    "Make one with `bash scripts/quickstart.sh`, or name a folder with `demo.json` in the variable `TLM_DEMO`."
)
TASKS = {"docstrings": "Python libraries", "ag_news": "AG News", "dbpedia_14": "DBpedia", "fewrel": "FewRel"}


def human(name: str) -> str:
    """A task's or an encoder's name as people say it: `bert-6` has six layers."""
    return TASKS.get(name, re.sub(r"bert-(\d+)(?:-\d+)?\b", lambda found: f"{found[1]}-layer encoder", name))


@dataclass
class Task:
    """One task: its models, the scores of each committee of its members, and a committee's speed by its size."""

    name: str
    title: str
    examples: list[str]
    members: list[str]
    scores: dict[str, dict[str, float]]
    test_texts: int
    committee: Model
    deep: Model | None = None
    milliseconds: list[float] = field(default_factory=list)

    def race_texts(self) -> list[str]:
        """Texts of 10 to 50 words of the examples, the same at each start: speed depends on the length alone."""
        words, generator = " ".join(self.examples).split(), random.Random(0)
        return [" ".join(generator.choices(words, k=generator.randint(10, 50))) for _ in range(RACE_TEXTS)]


@dataclass
class Demo:
    """All that the page shows; `trouble` says what is missing."""

    tasks: dict[str, Task] = field(default_factory=dict)
    encoders: list[Model] = field(default_factory=list)
    corpus: str = ""
    counts: np.ndarray | None = None
    study: Json | None = None
    trouble: list[str] = field(default_factory=list)


def find_folder() -> Path:
    """The folder with `demo.json`: that of `TLM_DEMO`, the one beside the app, or what the quickstart left."""
    if os.environ.get("TLM_DEMO"):
        return Path(os.environ["TLM_DEMO"]).expanduser()
    runs = CHECKOUT / "outputs"
    places = [HERE / "demo", *(runs / name / "release/demo" for name in ("quickstart", "quickstart-smoke"))]
    return next((place for place in places if (place / "demo.json").is_file()), places[0])


@contextmanager
def told(demo: Demo) -> Iterator[None]:
    """Say in `trouble` what cannot be loaded: the rest of the page works."""
    try:
        yield
    except DemoError as error:
        demo.trouble.append(str(error))
    except BROKEN as error:
        demo.trouble.append(f"The demonstration is missing or damaged ({type(error).__name__}). {HOW_TO_MAKE}")


def load_demo() -> Demo:
    """Load everything that is there."""
    demo, folder = Demo(), find_folder()
    described: Json = {"tasks": [], "encoders": {}, "corpus": {}, "study": None}
    with told(demo):
        content = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
        described = {key: content[key] for key in described}
    for entry in described["tasks"]:
        with told(demo):
            demo.tasks[entry["name"]] = load_task(folder, entry)
    for name, source in described["encoders"].items():
        with told(demo):
            demo.encoders.append(load(find_model(folder, source), human(name), masked=True))
    demo.encoders += map(from_scratch, demo.encoders[:1])
    study = folder / described["study"] if described["study"] else CHECKOUT / "results/study/laptop/rows.json"
    with told(demo):
        demo.study = json.loads(study.read_text(encoding="utf-8")) if study.is_file() else None
    if demo.encoders:
        with told(demo), np.load(folder / described["corpus"]["counts"], allow_pickle=False) as stored:
            demo.corpus, demo.counts = described["corpus"]["name"], stored["counts"]
            if len(stored["counts"]) != len(demo.encoders[0].tokenizer):
                demo.counts = None
                raise DemoError("The token counts are those of another vocabulary, so no overlap is measured.")
    return demo


def find_model(folder: Path, source: str) -> str:
    """The folder of a model, from the demonstration's or that of a staged release; else its name on the Hub."""
    places = [folder / source, folder.absolute() / "../../.." / source]
    return next((str(place.resolve()) for place in places if place.is_dir()), source)


def load_task(folder: Path, entry: Json) -> Task:
    """The models of a task; DemoError for one that cannot be opened."""
    facts = {key: entry[key] for key in ("name", "title", "members", "scores", "test_texts")}
    examples = entry["examples"] or ["A text."]
    task = Task(**facts, examples=examples, committee=load(find_model(folder, entry["committee"])))
    if entry["deep"]:  # without our own faster code: that is what a committee is compared with
        task.deep = load(find_model(folder, entry["deep"]), stock=True)
    if task.committee.frozen is not None:
        task.milliseconds = [time_members(task, count) for count in range(1, len(task.members) + 1)]
    return task


def time_members(task: Task, count: int) -> float:
    """Milliseconds of the first `count` members for one text, tokenisation included."""
    part, times = take_members(task.committee.frozen, list(range(count))), []
    for text in task.race_texts()[:30]:
        start = time.perf_counter()
        part.member_logits(part.encode([text])[0])
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def build_committee(task: Task, chosen: list[str]) -> list[Json]:
    """Scores on test texts of a committee of chosen members, of each of them, and of the deep encoder.

    Each has its own temperature, fitted on the validation texts; the committee averages probabilities.
    """
    unknown = [repr(name) for name in chosen if name not in task.members]
    if unknown or not chosen:
        raise DemoError(
            f"Tick at least one of {', '.join(task.members)}{', not ' * bool(unknown)}{', '.join(unknown)}."
        )
    places = sorted({task.members.index(name) for name in chosen})
    models = [(f"committee of {len(places)}", places), *((task.members[place], [place]) for place in places)]
    rows: list[Json] = []
    for name, members in models:
        speed = task.milliseconds[len(members) - 1] if task.milliseconds else None
        rows.append({"model": name, **task.scores[" ".join(map(str, members))], "milliseconds": speed})
    if "deep" in task.scores:
        rows.append({"model": "deep encoder", **task.scores["deep"], "milliseconds": None})
    return rows


@dataclass
class Overlap:
    """Of a text's tokens with the pre-training text: shares of them, and the Jensen-Shannon divergence in bits.

    `marked` has its first tokens, each with how often the pre-training text has it; None is no token of the encoders'.
    """

    tokens: int
    different: int
    different_seen: float
    occurrences_seen: float
    divergence: float
    marked: list[tuple[str, int | None]]
    notes: list[str]


def measure_overlap(text: Any, demo: Demo) -> Overlap:
    """Token overlap of a text with the pre-training text; DemoError for one without a known token."""
    if demo.counts is None:
        raise DemoError("The token counts of the pre-training text are not here.")
    tokenizer = demo.encoders[0].tokenizer
    words, notes = clean_text(text, LONGEST_OVERLAP)
    ids = np.array(tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"], dtype=int)
    is_known = ~np.isin(ids, tokenizer.all_special_ids)
    if not is_known.any():
        raise DemoError("The text has no token that the encoders know: write English words.")
    counts, is_seen = np.bincount(ids[is_known], minlength=len(demo.counts)), demo.counts >= MIN_COUNT
    shown = ids[:SHOWN_TOKENS].tolist()
    names = zip(tokenizer.convert_ids_to_tokens(shown), shown, is_known, strict=False)
    if not is_known.all():
        notes.append(f"{(~is_known).sum():,} signs that the encoders do not know are not counted.")
    if len(ids) > SHOWN_TOKENS:
        notes.append(f"Shown are the first {SHOWN_TOKENS} of {len(ids):,} tokens.")
    return Overlap(
        tokens=int(counts.sum()),
        different=int((counts > 0).sum()),
        different_seen=float(((counts > 0) & is_seen).sum() / (counts > 0).sum()),
        occurrences_seen=float(counts[is_seen].sum() / counts.sum()),
        divergence=float(jensenshannon(demo.counts, counts, base=2) ** 2),
        marked=[(name, int(demo.counts[number]) if known else None) for name, number, known in names],
        notes=notes,
    )
