"""Judge recipes by what they do downstream: pre-train variants for equal core-minutes, fine-tune each on three tasks.

python scripts/search.py --results results/training/search-counts.json --output-dir outputs/search --minutes 1 3 10 \
    --pretrain="--tokenizer TOKENIZER --num-texts 80000" --variants "" "--initialization counts"

Core-minutes are CPU time without tokenising; accuracies are those of validation texts. The same command continues.
"""

import argparse
import itertools
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tlm_hf.commands.common import Parser
from tlm_hf.runs.atomic_files import Json, read_json, write_json
from tlm_hf.runs.provenance import provenance
from tlm_hf.runs.quiet import quiet_libraries
from tlm_hf.study.estimates import Answers, Estimate, mean_difference
from tlm_hf.training.finetune import LOGITS_FILE, finetune
from tlm_hf.training.pretrain import pretrain
from tlm_hf.training.pretrain_options import GROUPS

TASKS: dict[str, tuple[float, Json]] = {  # as in the study, but more validation texts (2,000 to 2,560)
    "ag_news": (3e-4, {"train_per_label": 1000, "validation_per_label": 500, "test_per_label": 10}),
    "dbpedia_14": (1e-3, {"train_per_label": 100, "validation_per_label": 150, "test_per_label": 10}),
    "fewrel": (3e-4, {"train_per_label": 60, "validation_per_label": 40, "test_per_label": 30, "shortfall": "take"}),
}
RUN_FILE = "run.json"
TRIAL = 60  # steps that are timed to know how many fit into a budget


def train(words: str, folder: Path, seed: int, steps: int) -> tuple[Json, float]:
    """Pre-train a variant; returns the results and the CPU seconds of a step."""
    options = {"output_dir": str(folder), "seed": seed, "max_steps": steps, "num_threads": 1, "disable_tqdm": True}
    results = pretrain(**{"eval_steps": 10**6, **Parser(GROUPS, "pretrain", "").parse(shlex.split(words)), **options})
    return results, results["speed"]["cpu_seconds"] / results["speed"]["steps"]


def measure_cost(words: str, folder: Path) -> Json:
    """CPU seconds of a step of a variant, and of the `rest` of a run, such as counting; measured once."""
    if not (folder / "cost.json").is_file():
        start = time.process_time()
        _, step = train(words, folder, 0, TRIAL)
        write_json(folder / "cost.json", {"step": step, "rest": time.process_time() - start - TRIAL * step})
    return read_json(folder / "cost.json")


def run_variant(arguments: argparse.Namespace, variant: str, minutes: float, seed: int) -> Json:
    """Pre-train and fine-tune; a run that is finished is read from its folder."""
    name = variant.replace("--", "").replace(" ", "_").replace("/", "_") or "as-given"
    root, words = Path(arguments.output_dir) / name, f"{arguments.pretrain} {variant}"
    folder = root / f"{minutes:g}-minutes-{seed}"
    if (folder / RUN_FILE).is_file():
        return read_json(folder / RUN_FILE)
    cost = measure_cost(words, root / "trial")
    steps = max(10, round((60 * minutes - cost["rest"]) / cost["step"]))
    results, step = train(words, folder / "encoder", seed, steps)
    row = {"minutes": minutes, "variant": variant, "seed": seed, "steps": steps, "milliseconds": 1000 * step}
    row |= {"minutes used": (cost["rest"] + step * steps) / 60, "loss": results["held_out"]["loss"]}
    row["folder"] = str(folder)
    for task, (rate, sizes) in TASKS.items():
        options = {**sizes, "learning_rate": rate, "seed": seed, "num_threads": 1, "disable_tqdm": True}
        options |= {"model": str(folder / "encoder"), "output_dir": str(folder / task), "save_logits": True}
        row[task] = finetune(task=task, **options)["validation"]["accuracy"]
    write_json(folder / RUN_FILE, row)
    return row


def answers(folders: Sequence[str], task: str) -> Answers:
    """Which validation texts the classifiers in folders have right; tasks have their own seeds of the bootstrap."""
    right = []
    for folder in folders:
        with np.load(Path(folder) / task / LOGITS_FILE) as logits:
            right.append(logits["validation"].argmax(axis=1) == logits["validation_labels"])
    return Answers(np.array(right, dtype=float), seed=list(TASKS).index(task))


def points(gain: Estimate) -> str:
    """A difference in points, with its 95% bootstrap interval."""
    return f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def tabulate(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, and gains over the first variant, resampled over seeds and validation texts."""
    rows = []
    for (minutes, variant), some in runs.groupby(["minutes", "variant"], sort=False):
        first = runs[(runs.minutes == minutes) & (runs.variant == runs.variant[0])]
        both, gains = some.merge(first, on="seed"), {}
        if len(both) and variant != runs.variant[0]:
            pairs = {task: (answers(both.folder_x, task), answers(both.folder_y, task)) for task in TASKS}
            gains = {f"gain {task}": points(mean_difference([pair])) for task, pair in pairs.items()}
            gains["gain"] = points(mean_difference(list(pairs.values())))
        means = some.drop(columns=["minutes", "seed"]).mean(numeric_only=True).round(4)
        rows.append({"minutes": minutes, "variant": variant, "seeds": len(some), **means, **gains})
    return pd.DataFrame(rows).fillna("")  # the first variant has no gains


def main(argv: Sequence[str] | None = None) -> None:
    """Do the runs that the folder lacks; write and print the table after each run."""
    quiet_libraries()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, help="JSON file, written anew with the runs of this call")
    parser.add_argument("--output-dir", required=True, help="folder for the runs; those that it has are not repeated")
    parser.add_argument("--minutes", required=True, type=float, nargs="+", help="budgets in core-minutes")
    parser.add_argument("--variants", required=True, nargs="+", help="options of `tlm pretrain`, one string a variant")
    parser.add_argument("--pretrain", default="", help="options of `tlm pretrain` that all variants share")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds of pre-training and tuning")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    record, shared = Path(arguments.output_dir) / "search.json", {"pretrain": arguments.pretrain}
    if record.is_file() and read_json(record) != shared:
        parser.error(f"{record.parent} holds runs of --pretrain {read_json(record)['pretrain']!r}: give another folder")
    write_json(record, shared)
    runs = []
    for minutes, seed, variant in itertools.product(arguments.minutes, arguments.seeds, arguments.variants):
        runs.append(run_variant(arguments, variant, minutes, seed))
        table = tabulate(pd.DataFrame(runs))
        write_json(Path(arguments.results), {"table": table.to_dict("records"), "runs": runs, **provenance()})
        print(table.to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
