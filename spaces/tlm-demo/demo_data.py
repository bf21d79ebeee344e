"""What the Space reads beside its models: the folder with `demo.json`, token counts, the study."""

import json
import os
import random
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from demo_models import DemoError, Model, classify, clean_text, fill_masks, freeze, from_scratch, load
from scipy.spatial.distance import jensenshannon

Json = dict[str, Any]
HERE = Path(__file__).absolute().parent  # not resolved: in a copy from the Hub the files are links into its cache
CHECKOUT = HERE.parent.parent
MIN_COUNT = 10  # a token counts as seen when it is at least so often in the pre-training text
LONGEST_OVERLAP, SHOWN_TOKENS = 500_000, 400  # characters that are measured, tokens that are shown
RACE_TEXTS, TIMED_TEXTS = 200, 30
HOW_TO_MAKE = "Make one with `tlm demo` or `bash scripts/quickstart.sh`, and name its folder in `TLM_DEMO`."
NAMES = {"docstrings": "Python libraries", "ag_news": "AG News", "dbpedia_14": "DBpedia", "fewrel": "FewRel"}


def human(name: str) -> str:
    """A task's or an encoder's name as people say it: `bert-6` has six layers."""
    return NAMES.get(name, re.sub(r"bert-(\d+)(?:-\d+)?\b", lambda found: f"{found[1]}-layer encoder", name))


@dataclass
class Task:
    """One task: its models, the scores of each committee of its members, and the speed of a committee by its size."""

    name: str
    title: str
    examples: list[str]
    members: list[str]
    scores: dict[str, dict[str, float]]
    test_texts: int
    committee: Model
    deep: Model | None = None
    milliseconds: dict[int, float] = field(default_factory=dict)

    def race_texts(self) -> list[str]:
        """Texts of 10 to 50 words of the examples, the same at each start: speed depends on the length alone."""
        words, generator = " ".join(self.examples).split(), random.Random(0)
        return [" ".join(generator.choices(words, k=generator.randint(10, 50))) for _ in range(RACE_TEXTS)]

    def time_members(self, count: int) -> float | None:
        """Milliseconds of the first `count` members for one text, tokenisation included, measured once."""
        if self.committee.frozen is not None and count not in self.milliseconds:
            part, times = freeze(self.committee.model.subset(range(count)), self.committee.tokenizer), []
            for text in self.race_texts()[:TIMED_TEXTS]:
                start = time.perf_counter()
                part.probabilities([text])
                times.append(1000 * (time.perf_counter() - start))
            self.milliseconds[count] = statistics.median(times)
        return self.milliseconds.get(count)


@dataclass
class Demo:
    """All that the page shows, and answers programs and agents (by the docstrings); `trouble` says what is missing."""

    tasks: dict[str, Task] = field(default_factory=dict)
    encoders: list[Model] = field(default_factory=list)
    corpus: str = ""
    counts: np.ndarray | None = None
    study: Json | None = None
    trouble: list[str] = field(default_factory=list)

    def choose(self, task: str = "") -> Task:
        """The task of this name, the first one for none."""
        if not self.tasks or (task and task not in self.tasks):
            known = ", ".join(self.tasks) or "none, since no committee opened"
            raise DemoError(f"There is no task {task!r} among {known}.")
        return self.tasks[task] if task else next(iter(self.tasks.values()))

    def classify(self, text: str, task: str = "") -> dict:
        """Classify an English text by a committee: label, probabilities, its members' votes, entropy (nats), time.

        Args:
            text: a sentence or a paragraph.
            task: name of the task; empty for the first one.
        """
        found = classify(text, self.choose(task).committee, leave_out=False)
        record = {name: getattr(found, name) for name in ("label", "votes", "entropy", "milliseconds", "notes")}
        return record | {"probabilities": dict(zip(found.labels, found.probabilities.tolist(), strict=True))}

    def fill_mask(self, text: str) -> dict:
        """Fill every [MASK] of a text by each encoder: the five likeliest tokens with their probabilities.

        Args:
            text: English, with one to ten [MASK].
        """
        return {encoder.name: fill_masks(text, encoder) for encoder in self.encoders}

    def overlap(self, text: str) -> dict:
        """Compare a text with the pre-training text: shares of tokens seen there, Jensen-Shannon divergence (bits).

        Args:
            text: what is compared.
        """
        return {name: value for name, value in measure_overlap(text, self).items() if name != "marked"}

    def build_committee(self, members: list[str], task: str = "") -> list[dict]:
        """Accuracy, calibration and latency of a committee of some members, of each of them, and of the deep encoder.

        Args:
            members: their names, such as ["member 1", "member 3"].
            task: name of the task; empty for the first one.
        """
        one = self.choose(task)
        unknown = ", ".join(repr(name) for name in members if name not in one.members)
        if unknown or not members:
            raise DemoError(f"Tick at least one of {', '.join(one.members)}{f', not {unknown}' * bool(unknown)}.")
        places, rows = sorted({one.members.index(name) for name in members}), []
        models = [(f"committee of {len(places)}", places), *((one.members[place], [place]) for place in places)]
        for name, parts in models:
            scores = one.scores[" ".join(map(str, parts))]
            rows.append({"model": name, **scores, "milliseconds": one.time_members(len(parts))})
        if "deep" in one.scores:
            rows.append({"model": "deep encoder", **one.scores["deep"], "milliseconds": None})
        return rows


@contextmanager
def told(demo: Demo) -> Iterator[None]:
    """Say in `trouble` what cannot be loaded: the rest of the page works."""
    try:
        yield
    except Exception as error:
        words = f"The demonstration is missing or damaged ({type(error).__name__}). {HOW_TO_MAKE}"
        demo.trouble.append(str(error) if isinstance(error, DemoError) else words)


def load_demo() -> Demo:
    """Load what is in the folder of `TLM_DEMO`, else in the one beside the app or that `tlm demo` left."""
    places = [HERE / "demo", CHECKOUT / "outputs/demo", CHECKOUT / "outputs/quickstart/release/demo"]
    folder = next((place for place in places if (place / "demo.json").is_file()), places[0])
    demo, folder = Demo(), Path(os.environ.get("TLM_DEMO") or folder).expanduser()
    described: Json = {"tasks": [], "encoders": {}, "corpus": None, "study": None}
    with told(demo):
        content = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
        described = {key: content[key] for key in described}
    for entry in described["tasks"]:
        with told(demo):
            facts = {key: entry[key] for key in ("name", "title", "members", "scores", "test_texts")}
            facts["examples"] = entry["examples"] or ["A text."]
            committee = load(find_model(folder, entry["committee"]))
            deep = load(find_model(folder, entry["deep"])) if entry["deep"] else None
            demo.tasks[entry["name"]] = Task(**facts, committee=committee, deep=deep)
    for name, source in described["encoders"].items():
        with told(demo):
            demo.encoders.append(load(find_model(folder, source), human(name), masked=True))
    demo.encoders += map(from_scratch, demo.encoders[:1])
    study = folder / described["study"] if described["study"] else CHECKOUT / "results/study/laptop/rows.json"
    with told(demo):
        demo.study = json.loads(study.read_text(encoding="utf-8")) if study.is_file() else None
    if demo.encoders and described["corpus"]:
        with told(demo), np.load(folder / described["corpus"]["counts"], allow_pickle=False) as stored:
            if len(stored["counts"]) != len(demo.encoders[0].tokenizer):
                raise DemoError("The token counts are those of another vocabulary, so no overlap is measured.")
            demo.corpus, demo.counts = described["corpus"]["name"], stored["counts"]
    return demo


def find_model(folder: Path, source: str) -> str:
    """The folder of a model, from the demonstration's or that of a staged release; else its name on the Hub."""
    places = [folder / source, folder.absolute() / "../../.." / source]
    return next((str(place.resolve()) for place in places if place.is_dir()), source)


def measure_overlap(text: Any, demo: Demo) -> Json:
    """Overlap of a text with the pre-training text; `marked` has its first tokens with how often that has them."""
    if demo.counts is None:
        raise DemoError("The token counts of the pre-training text are not here.")
    tokenizer = demo.encoders[0].tokenizer
    words, notes = clean_text(text, LONGEST_OVERLAP)
    ids = np.array(tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"], dtype=int)
    known = ids[~np.isin(ids, tokenizer.all_special_ids)]
    if not len(known):
        raise DemoError("The text has no token that the encoders know: write English words.")
    counts, is_seen = np.bincount(known, minlength=len(demo.counts)), demo.counts >= MIN_COUNT
    if len(known) < len(ids):
        notes.append(f"{len(ids) - len(known):,} signs that the encoders do not know are not counted.")
    if len(ids) > SHOWN_TOKENS:
        notes.append(f"Shown are the first {SHOWN_TOKENS} of {len(ids):,} tokens.")
    shown = ids[:SHOWN_TOKENS].tolist()
    return {
        "tokens": int(counts.sum()),
        "different": int((counts > 0).sum()),
        "different_seen": float(is_seen[counts > 0].mean()),
        "occurrences_seen": float(counts[is_seen].sum() / counts.sum()),
        "divergence": float(jensenshannon(demo.counts, counts, base=2) ** 2),
        "marked": list(zip(tokenizer.convert_ids_to_tokens(shown), demo.counts[shown].tolist(), strict=True)),
        "notes": notes,
    }
