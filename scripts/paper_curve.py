"""How soon `bert-1@paper` is at the authors' held-out loss: core-seconds of both recipes as a JSON file and a figure.

python scripts/paper_curve.py --output-dir outputs/paper-curve --results results/training/paper-curve.json \
    --pretrain="--tokenizer TOKENIZER --num-texts 10000 --max-steps 120 --eval-steps 20"

Their losses and the seconds of their step (stock BERT, float32, all cores) are those of two earlier measurements. Ours
are the CPU seconds of counting and of the training steps. Tokenising and evaluation count for neither.
"""

import argparse
import shlex
from pathlib import Path

from tlm_hf.commands.common import Parser
from tlm_hf.runs.atomic_files import read_json, write_json
from tlm_hf.runs.figure import new_figure
from tlm_hf.runs.provenance import provenance
from tlm_hf.runs.quiet import quiet_libraries
from tlm_hf.training.pretrain import pretrain
from tlm_hf.training.pretrain_options import GROUPS

TRAINING = Path(__file__).resolve().parents[1] / "results" / "training"


def their_curve() -> list[tuple[float, float]]:
    """Core-seconds and losses of the authors' recipe."""
    trial = read_json(TRAINING / "search-bert-1-paper-init.json")["trials"][0]
    benchmark = read_json(TRAINING / "benchmark-bert-1-tlm.json")
    core_seconds = benchmark["stock_step_seconds"] * benchmark["provenance"]["machine"]["cores"] / trial["batch_size"]
    return [(texts * core_seconds, loss) for texts, loss in trial["curve"]]


def main() -> None:
    """Train (an interrupted command continues), write the results, and draw beside them."""
    quiet_libraries()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--results", "--output-dir", "--pretrain"):
        parser.add_argument(name, required=True)
    arguments = parser.parse_args()
    given = Parser(GROUPS, "pretrain", "").parse(shlex.split(arguments.pretrain))
    results = pretrain(recipe="bert-1", size="paper", **given, output_dir=arguments.output_dir, disable_tqdm=True)
    counting, speed = results["counting_cpu_seconds"], results["speed"]
    step = speed["cpu_seconds"] / speed["steps"]
    rows = [row for row in results["history"] if "eval_loss" in row]
    ours = [(counting + step * row["step"], row["eval_loss"]) for row in rows]
    theirs = their_curve()
    seconds, loss = theirs[-1]
    reached = next((second for second, ours_loss in ours if ours_loss <= loss), None)
    summary = {
        "loss": loss,
        "core_seconds_theirs": seconds,
        "core_seconds_ours": reached,
        "ratio": None if reached is None else seconds / reached,
        "counting_core_seconds": counting,
        "step_core_seconds": step,
        "curves": {"theirs": theirs, "ours": ours},
        "settings": given,
    }
    file = Path(arguments.results)
    write_json(file, {**summary, **provenance()})
    with new_figure(file.with_suffix(".png"), "bert-1@paper", "core-seconds", "held-out loss, nats") as axes:
        axes.plot(*zip(*theirs, strict=True), ".-", color="#b5532f", label="the authors' recipe and implementation")
        axes.plot(*zip(*ours, strict=True), ".-", color="#2f6db5", label="ours, counting included")
        axes.axhline(loss, color="grey", linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.legend(frameon=False)


if __name__ == "__main__":
    main()
