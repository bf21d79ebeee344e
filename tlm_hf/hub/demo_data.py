"""`tlm demo`: the Space's folder, with `demo.json`, in it for each task the scores of all committees of its members."""

import os
import shutil
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from pyarrow.parquet import read_schema

from ..cards import package_data
from ..data.corpora import load_corpus
from ..data.embedded import model_folder
from ..data.kinds import PAIR, class_names, problem_of
from ..data.overlap import count_tokens, encode_texts
from ..data.tasks import load_task
from ..data.tokenization import load_tokenizer
from ..errors import UserError
from ..evaluation.calibration import calibration_metrics, choose_temperature
from ..evaluation.classifier_facts import load_task_of
from ..evaluation.scoring import predict_logits
from ..loading import COMMITTEES, load_classifier, load_classifier_tokenizer, match_labels
from ..models.combination_committee import SINGLE, combine
from ..option_fields import option
from ..runs.atomic_files import Json, read_json, read_yaml, whole_folder, write_json
from ..runs.output_folder import RESULTS_FILE
from ..runs.provenance import portable_path, provenance

DEMO_FILE, COUNTS_FILE, STUDY_FILE = "demo.json", "corpus_counts.npz", "study.json"
SPLITS = ("validation", "test")
MOST_MEMBERS = 8  # of a committee all of whose parts are scored


@dataclass
class DemoArguments:
    """Options of `tlm demo`."""

    committees: list[str] = option(list, "TASK=FOLDER of committees that train-committee or committee wrote.")
    output_dir: str = option("outputs/demo", "The folder to make; an older one is replaced.")
    deep: list[str] = option(list, "TASK=FOLDER of deep classifiers to show beside them.")
    encoders: list[str] = option(lambda: ["bert-1=tlm-bert1-0"], "NAME=FOLDER of encoders that fill masks.")
    corpus: str | None = option(None, "What they were pre-trained on, for the overlap of a text.")
    num_texts: int | None = option(None, "Texts of that corpus (default: all).")
    study: str | None = option(None, "rows.json of a study's report, for the findings.")
    data_root: str | None = option(None, "Folder of real text; default: $TLM_DATA.")


def make_demo(arguments: DemoArguments) -> Json:
    """Make the Space's folder, whole or not at all; returns `demo` (its description) and its `tasks`."""
    committees, deep, encoders = (_read_pairs(arguments, flag) for flag in ("committees", "deep", "encoders"))
    if not committees or not encoders or not deep.keys() <= committees.keys():
        raise UserError("demo needs --committees TASK=FOLDER, one of --encoders, and --deep for the same tasks alone.")
    tokenizer = load_tokenizer(str(next(iter(encoders.values()))))
    destination = Path(arguments.output_dir).expanduser().resolve()
    own = {DEMO_FILE, COUNTS_FILE, STUDY_FILE}
    if destination.is_file() or any(path.name not in own for path in destination.glob("*")):
        raise UserError(f"The output folder {destination} is a file, or holds other files: give another --output-dir.")
    if arguments.study is not None and not {"rows", "reference"} <= read_json(arguments.study).keys():
        raise UserError(f"--study {arguments.study} is not of a study: name the rows.json of its report.")

    def relative(folder: Path) -> str:
        return Path(os.path.relpath(folder.resolve(), destination)).as_posix()

    with whole_folder(destination) as folder:
        tasks = []
        for name, committee in committees.items():
            models = {"committee": relative(committee), "deep": relative(deep[name]) if name in deep else None}
            tasks.append({"name": name, **models, **_describe(name, committee, deep.get(name), arguments.data_root)})
        demo: Json = {"tasks": tasks, "encoders": {name: relative(encoder) for name, encoder in encoders.items()}}
        demo |= {"corpus": None, "study": None, "made_by": provenance()}
        if arguments.corpus is not None:
            texts = load_corpus(arguments.corpus, num_texts=arguments.num_texts, root=arguments.data_root)["train"]
            counts = count_tokens(encode_texts(texts["text"][:], tokenizer, tokenizer.model_max_length))
            np.savez_compressed(folder / COUNTS_FILE, counts=counts)
            source = known_texts(arguments.corpus).get("corpus", Path(arguments.corpus).name)
            demo["corpus"] = {"name": f"{len(texts):,} texts of {source}", "counts": COUNTS_FILE}
        if arguments.study is not None:
            demo["study"] = shutil.copyfile(arguments.study, folder / STUDY_FILE).name
        write_json(folder / DEMO_FILE, demo)
    return {"demo": portable_path(str(destination / DEMO_FILE)), "tasks": list(committees)}


def known_texts(name: str) -> Json:
    """What cards and the Space say of a corpus or task (`model_cards/texts.yaml`); nothing of one that is not known."""
    file = package_data("model_cards") / "texts.yaml"
    return dict(read_yaml(file).get(name, {}))


def _read_pairs(arguments: DemoArguments, flag: str) -> dict[str, Path]:
    pairs = {}
    for pair in getattr(arguments, flag):
        name, _, folder = pair.partition("=")
        if not name or not folder:
            raise UserError(f"--{flag} has {pair!r}: give name and folder, such as ag_news=outputs/ag_news-committee.")
        pairs[name] = Path(model_folder(folder)).expanduser()
    return pairs


def _load_splits(folder: Path, root: str | None) -> datasets.DatasetDict:
    """The splits that a committee was trained on, by what its command wrote."""
    if (folder / "work" / "data").is_dir():  # of train-committee
        schema = read_schema(folder / "work" / "data" / "test.parquet")
        options = {"text_pair_column": PAIR} if PAIR in schema.names else {}
        options |= {"problem_type": "regression"} if pa.types.is_floating(schema.field("label").type) else {}
        return load_task(str(folder / "work" / "data"), **options)
    results = read_json(folder / RESULTS_FILE) if (folder / RESULTS_FILE).is_file() else {}
    if "task" not in results:
        commands = "`tlm committee`, nor of `tlm train-committee` with its folder work/"
        raise UserError(f"{folder} is not the output of {commands}: name one of them, or train it again.")
    return load_task_of(results, folder.name, root)


def _describe(name: str, committee: Path, deep: Path | None, root: str | None) -> Json:
    """Title, examples, and the scores of each committee of the members (`0 2` has two) and of the `deep` encoder."""
    task = _load_splits(committee, root)
    if problem_of(task) != SINGLE or PAIR in task["test"].column_names:
        raise UserError(f"The task {name!r} is not one class for each text, all that the Space shows: leave it out.")
    labels = {split: np.array(task[split]["label"][:]) for split in SPLITS}

    def predict(source: Path, model: Any, split: str, **options: Any) -> np.ndarray:
        """Logits (texts, members if they are asked for, classes) with the classes in the order of the task's."""
        order = match_labels(model, str(source), name, class_names(task))
        tokenizer = load_classifier_tokenizer(str(source), model)
        return predict_logits(model, tokenizer, task[split]["text"][:], **options)[0][..., order]

    model = load_classifier(str(committee))
    if model.config.model_type not in COMMITTEES:
        raise UserError(f"{committee} is no committee: name it with --deep, or join it with tlm committee.")
    count, combination = model.config.num_members, model.config.combination
    if count > MOST_MEMBERS:
        raise UserError(f"The committee {committee} has {count} members: show at most {MOST_MEMBERS}.")
    logits, scores = torch.from_numpy(predict(committee, model, "test", member_logits=True)), {}
    for chosen in (part for size in range(count) for part in combinations(range(count), size + 1)):
        joined = combine(logits[:, chosen], combination).numpy()
        scores[" ".join(map(str, chosen))] = scores_at(model.config.temperature, joined, labels["test"])
    if deep is not None:
        other = load_classifier(str(deep))
        held_out, last = (predict(deep, other, split) for split in SPLITS)
        scores["deep"] = scores_at(choose_temperature(held_out, labels["validation"]).value, last, labels["test"])
    members, known = [f"member {place + 1}" for place in range(count)], known_texts(name)
    facts = {"title": known.get("question", name), "members": members, "test_texts": len(labels["test"])}
    return facts | {"scores": scores, "examples": known.get("examples", [])}


def scores_at(temperature: float, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores of logits (texts, classes) at a temperature, and that temperature."""
    return calibration_metrics(logits / temperature, labels) | {"temperature": temperature}
