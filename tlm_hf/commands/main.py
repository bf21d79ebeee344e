"""The console entry `tlm`: `tlm NAME ...` runs the same function as `python scripts/NAME.py ...`."""

import importlib
import sys
from collections.abc import Sequence

from .. import __version__

COMMANDS = {
    "quickstart": "the whole idea on embedded text: pre-train, fine-tune, committee, table, staged folders",
    "pretrain": "pre-train an encoder on a corpus",
    "finetune": "fine-tune an encoder on a task, or train it from scratch",
    "committee": "join fine-tuned classifiers into a calibrated committee",
    "export": "a classifier or committee as ONNX, in float32 and int8",
    "score": "accuracy, loss, or fixed-mask loss and perplexity of a model on a task or text",
    "predict": "labels and probabilities for texts or a table",
    "train-committee": "your own data in one go: a committee from a table of texts and labels",
    "prepare-data": "corpus subsets and tasks as data set folders, checked for leakage, ready to push",
    "overlap": "token overlap of a corpus with tasks, and subsets with high, random and low overlap",
    "study": "the four findings of the paper: plan, run, report",
    "release": "models, data sets, cards and the Space to the Hub: stage, verify, push, status, reproduce",
    "benchmark": "training and inference against stock BERT, tokenising against bare tokenizers",
    "import-paper-weights": "a checkpoint of the paper's authors into a folder of ours",
}


def usage() -> str:
    """The list of commands."""
    rows = [f"  {name:<22}{what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: tlm COMMAND [options]   (tlm COMMAND --help lists its options)", "", *rows])


def main(argv: Sequence[str] | None = None) -> None:
    """Dispatch to a command; exit code 2 for an unknown one."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return
    if words[0] == "--version":
        print(f"tlm-hf {__version__}")
        return
    words[0] = words[0].replace("_", "-")
    if words[0] not in COMMANDS:
        sys.stderr.write(f"error: there is no command {words[0]!r}; choose one of {', '.join(COMMANDS)}.\n")
        raise SystemExit(2)
    module = importlib.import_module(f".{words[0].replace('-', '_')}", __package__)
    module.main(words[1:])


if __name__ == "__main__":
    main()
