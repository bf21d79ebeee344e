"""Pre-train variants of a recipe and fine-tune each; prints held-out loss and validation accuracy, one line a variant.

python scripts/search.py --output-dir outputs/search --pretrain="--corpus wikipedia --max-steps 1000" \
    --finetune="--task ag_news --train-per-label 1000" --variants "" "--learning-rate 1e-3" "--mlm-probability 0.4"
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tlm_hf.commands.common import parse
from tlm_hf.commands.main import main as tlm


@dataclass
class SearchArguments:
    """Options of the search."""

    output_dir: str = field(metadata={"help": "Folder for the runs; the same command continues them."})
    pretrain: str = field(metadata={"help": "Options of `tlm pretrain` that all variants share."})
    variants: list[str] = field(metadata={"help": "Further options of `tlm pretrain`, one string a variant."})
    finetune: str | None = field(default=None, metadata={"help": "Options of `tlm finetune`; default: no fine-tuning."})


def main(argv: Sequence[str] | None = None) -> None:
    """Train every variant in turn; a finished one is read from its folder."""
    arguments = parse(SearchArguments, "search", __doc__ or "", argv)
    for number, variant in enumerate(arguments.variants):
        folder = Path(arguments.output_dir) / f"{number}{variant.replace(' --', '--').replace(' ', '=')}"
        encoder = folder / "encoder"
        loss = _train("pretrain", f"{arguments.pretrain} {variant}", encoder)["held_out"]["loss"]
        line = f"{variant or 'as given':<60}  loss {loss:.3f}"
        if arguments.finetune is not None:
            words = f"{arguments.finetune} --model {shlex.quote(str(encoder))}"
            found = _train("finetune", words, folder / "classifier")
            line += f"  validation accuracy {found['validation']['accuracy']:.3f}"
        print(line, flush=True)


def _train(command: str, words: str, folder: Path) -> dict[str, dict[str, float]]:
    """Run a command and read what it wrote."""
    tlm([command, *shlex.split(words), "--output-dir", str(folder)])
    results: dict[str, dict[str, float]] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return results


if __name__ == "__main__":
    main()
