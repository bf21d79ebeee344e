"""The encoders in the package on three tasks: one by one and joined, over seeds, beside the baselines.

TLM_DATA=data python scripts/family.py --json results/family/seeds.json --output-dir outputs/family

A committee of three has the fine-tunings of one seed, one of five two more of the next; `with words` it has the table
that `tlm train-committee` adds. The same command continues.
"""

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tlm_hf.data.kinds import class_names
from tlm_hf.data.tasks import load_task
from tlm_hf.data.tokenization import load_tokenizer
from tlm_hf.evaluation.linear_models import choose_linear, fit_tfidf, sentence_baseline
from tlm_hf.runs.atomic_files import Json, read_json, write_json
from tlm_hf.runs.provenance import provenance
from tlm_hf.runs.quiet import quiet_libraries
from tlm_hf.study.estimates import Answers, Estimate, accuracy, committees_right, difference
from tlm_hf.training.finetune import LOGITS_FILE
from tlm_hf.training.join_committee import CommitteeArguments, join_members, load_members
from tlm_hf.training.lexical import COUNTED, fit_lexical, text_means, word_vectors
from tlm_hf.training.members import finetune_members

FEWREL = {"train_per_label": 150, "validation_per_label": 10, "test_per_label": 30, "shortfall": "take"}
TASKS: dict[str, tuple[float, Json]] = {  # learning rate and sizes, as in the study
    "ag_news": (3e-4, {"train_per_label": 1000, "validation_per_label": 200, "test_per_label": 500}),
    "dbpedia_14": (1e-3, {"train_per_label": 100, "validation_per_label": 50, "test_per_label": 150}),
    "fewrel": (3e-4, FEWREL),
    "fewrel, entities marked": (3e-4, {**FEWREL, "entity_markers": "text"}),
}
ENCODERS = ("tlm-bert1-0", "tlm-bert1-1", COUNTED)


def in_percent(estimate: Estimate) -> Json:
    """Value and 95% interval over texts and seeds, times 100."""
    return {part: round(100 * getattr(estimate, part), 2) for part in ("value", "low", "high")}


def run_task(name: str, seeds: Sequence[int], output: Path) -> list[Json]:
    """Rows of one task: accuracy of each model, and its difference from TF-IDF and MiniLM, in percent and points."""
    rate, sizes = TASKS[name]
    folder, source = output / name.replace(", ", "-").replace(" ", "-"), name.split(",")[0]
    logits, members = [], []
    for seed in seeds:
        options = {"models": list(ENCODERS), "seed": seed, "learning_rate": rate, "num_threads": 1, "save_logits": True}
        options |= {"output_dir": str(folder / str(seed)), "workers": 1, "disable_tqdm": True}
        finetune_members(task=source, **options, **sizes)
        members += [folder / str(seed) / f"member-{index}" for index in range(len(ENCODERS))]
    for member in members:
        with np.load(member / LOGITS_FILE) as stored:
            logits.append(stored["test"])
    places = np.arange(len(logits)).reshape(len(seeds), len(ENCODERS))
    sides = {encoder: places[:, [index]] for index, encoder in enumerate(ENCODERS)}
    sides["committee of three"] = places
    sides["committee of five"] = np.hstack([places, np.roll(places, -1, axis=0)[:, :2]])
    task = load_task(source, **sizes)
    labels, of_members = np.array(task["test"]["label"][:]), np.stack(logits, axis=1)
    answers = {side: Answers(committees_right(of_members, labels, chosen)) for side, chosen in sides.items()}
    tokenizer = load_tokenizer(COUNTED)
    vectors = word_vectors(tokenizer, [COUNTED])
    table = fit_lexical(tokenizer, vectors, task["train"], len(class_names(task)))
    for side in ("committee of three", "committee of five"):
        right = []
        for chosen in sides[side]:
            joining = CommitteeArguments(source, members=[str(members[index]) for index in chosen], disable_tqdm=True)
            own = copy.deepcopy(table)  # joining changes it
            joined = join_members(joining, task, load_members(joining, task), tokenizer, (own, tokenizer))
            right.append(joined.logits.argmax(axis=-1) == labels)
        answers[f"{side}, with words"] = Answers(np.array(right, dtype=float))
    means = text_means(tokenizer, vectors)
    counted = choose_linear({split: means(task[split]["text"][:]) for split in task}, task)
    baselines = {"TF-IDF": fit_tfidf(task)[0], "MiniLM": sentence_baseline(task)}
    for side, found in (baselines | {"count vectors": counted}).items():
        answers[side] = Answers((found["logits"]["test"].argmax(-1) == labels)[None].astype(float))
    rows = []
    for side, ours in answers.items():
        row: Json = {"task": name, "model": side, "runs": ours.runs, "accuracy": in_percent(accuracy(ours))}
        row |= {f"less {other}": in_percent(difference(ours, answers[other])) for other in baselines}
        rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Run the tasks that the results lack, and print their rows."""
    quiet_libraries()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, type=Path, help="file of the results")
    parser.add_argument("--output-dir", required=True, type=Path, help="folder of the classifiers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 3, 6, 9, 12], help="seed of each first encoder")
    arguments = parser.parse_args(argv)
    found = read_json(arguments.json) if arguments.json.is_file() else {"rows": [], "seeds": arguments.seeds}
    if found["seeds"] != arguments.seeds:
        parser.error(f"{arguments.json} is of --seeds {found['seeds']}: name another file")
    rows = found["rows"]
    for name in TASKS:
        if name not in {row["task"] for row in rows}:
            rows += run_task(name, arguments.seeds, arguments.output_dir)
            write_json(arguments.json, {"rows": rows, "seeds": arguments.seeds, **provenance()})
            print(*(row for row in rows if row["task"] == name), sep="\n", flush=True)


if __name__ == "__main__":
    main()
