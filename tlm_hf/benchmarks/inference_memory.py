"""Memory that a committee takes to load and to answer its first batch, in a fresh process."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..models.configuration_tlm import TLMConfig
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..models.modeling_tlm import TLMForSequenceClassification
from .process_memory import process_memory

TEXTS = 32
PROGRAM = """
import json, sys
import torch
from tlm_hf import CommitteeForSequenceClassification
from tlm_hf.benchmarks.process_memory import process_memory

how, folder, members, threads, texts, length = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
torch.set_num_threads(threads)
before = process_memory("VmRSS")
if how == "from_members":
    committee = CommitteeForSequenceClassification.from_members([f"{folder}/{k}" for k in range(members)])
else:
    committee = CommitteeForSequenceClassification.from_pretrained(f"{folder}/all")
with torch.inference_mode():
    generator = torch.Generator().manual_seed(0)
    committee(torch.randint(1, committee[0].config.vocab_size, (texts, length), generator=generator))
weights = sum(weight.nbytes for weight in committee.parameters())
print(json.dumps({"weights": weights, "peak": process_memory("VmHWM") - before}))
"""


def measure_memory(config: TLMConfig, members: int, threads: int) -> dict[str, Any] | None:
    """Load a committee in a fresh process and answer a batch of 32 texts of full length.

    Args:
        config: a member's.
        members: of them.
        threads: CPU threads.

    Returns:
        `weights_mib`, and for `from_members` and `from_pretrained` the `..._peak_share`: the largest resident set less
        that after the imports, over the size of the weights. None where the system does not tell.
    """
    if process_memory("VmHWM") is None:
        return None
    results: dict[str, Any] = {}
    with TemporaryDirectory() as folder, torch.inference_mode(False):
        models = [TLMForSequenceClassification(config) for _ in range(members)]
        for place, model in enumerate(models):
            model.save_pretrained(Path(folder) / str(place))
        CommitteeForSequenceClassification.from_members(models).save_pretrained(Path(folder) / "all")
        del models
        for how in ("from_members", "from_pretrained"):
            words = [how, folder, *map(str, (members, threads, TEXTS, config.max_position_embeddings))]
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, *words], stdout=subprocess.PIPE, text=True, check=True
            )
            found = json.loads(done.stdout.strip().splitlines()[-1])
            results["weights_mib"] = found["weights"] / 2**20
            results[f"{how}_peak_share"] = found["peak"] / found["weights"]
    return results
