"""The console entry `tlm`: `tlm NAME ...` runs the same function as `python scripts/NAME.py ...`."""

import difflib
import importlib
import sys
from collections.abc import Sequence

from ..errors import explain_missing_module

BAD_INPUT = 2

COMMANDS = {
    "quickstart": "the whole idea on embedded text: pre-train, fine-tune, committee, table, staged folders",
    "train-committee": "your own table of texts and labels in one go: a committee, its accuracy, its folder",
    "predict": "labels and probabilities for texts or a table",
    "pretrain": "pre-train an encoder on a corpus, or continue one on your own text",
    "finetune": "fine-tune an encoder on a task, or train it from scratch",
    "committee": "join fine-tuned classifiers into a calibrated committee",
    "score": "accuracy, loss, or fixed-mask loss and perplexity of a model on a task or text",
    "export": "a classifier or committee as ONNX, in float32 and int8",
    "prepare-data": "corpus subsets and tasks as data set folders, checked for leakage, ready to push",
    "overlap": "token overlap of a corpus with tasks, and subsets with high, random and low overlap",
    "study": "the four findings of the paper: plan, run, report",
    "release": "models, data sets, cards and the Space to the Hub: stage, verify, push, status, reproduce",
    "benchmark": "training and inference against stock BERT, tokenizing against the bare tokenizers library",
    "import-paper-weights": "a checkpoint of the paper's authors into a folder of ours, after checks",
}


def usage() -> str:
    """The list of commands."""
    rows = [f"  {name:<22}{what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: tlm COMMAND [options]   (tlm COMMAND --help lists its options)", "", *rows])


def main(argv: Sequence[str] | None = None) -> None:
    """Dispatch to a command; exit code 2 for an unknown one, or where the extra that it needs is not installed."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return
    if words[0] == "--version":
        from .. import __version__

        print(f"tlm-hf {__version__}")
        return
    name = words[0].replace("_", "-")
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        remedy = f"did you mean {nearest[0]!r}?" if nearest else f"choose one of {', '.join(COMMANDS)}."
        sys.stderr.write(f"error: there is no command {words[0]!r}; {remedy}\n")
        raise SystemExit(BAD_INPUT)
    try:
        importlib.import_module(f".{name.replace('-', '_')}", __package__).main(words[1:])
    except ModuleNotFoundError as error:
        explanation = explain_missing_module(error)
        if explanation is None:
            raise
        sys.stderr.write(f"error: {explanation}\n")
        raise SystemExit(BAD_INPUT) from None


if __name__ == "__main__":
    main()
