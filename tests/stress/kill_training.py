"""Kill a pre-training again and again at random moments, and compare its end bit for bit with an uninterrupted run.

    python tests/stress/kill_training.py --kills 20 --json results/training/stress.json

A smoke-size encoder is trained on generated text with dropout 0.1. Every start is a fork of this process, killed with
SIGKILL: in a third of the cases some time after a step (anywhere), in a third while a checkpoint is being written, in
a third right after a new checkpoint got its name, while older ones are removed. Then the same command runs again,
until it ends. Weights, optimizer, schedule and random numbers of the last checkpoint, and everything logged but times
must be equal to the last bit. Kills are drawn by --seed; where in the code they hit depends on the machine.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.trainer_pt_utils import safe_globals

from tlm_hf.commands.main import main as tlm
from tlm_hf.runs.atomic_files import read_json, write_json
from tlm_hf.runs.checkpoints import list_checkpoints, step_of
from tlm_hf.runs.output_folder import Run
from tlm_hf.runs.provenance import provenance

WORDS = "boat mill river bread flour salt baker teacher story morning evening bridge old new small runs reads the a"
MOMENTS = ("anywhere", "writing a checkpoint", "removing a checkpoint")
STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


def write_corpus(path: Path, seed: int) -> None:
    """400 random sentences, one a line."""
    rng = random.Random(seed)
    lines = [" ".join(rng.choices(WORDS.split(), k=rng.randint(12, 24))) + f" number {index}" for index in range(400)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def keep_last_checkpoint(run: Run) -> None:
    """In place of removing the checkpoints of a finished run: the last one becomes `OUTPUT-last`."""
    for index, checkpoint in enumerate(list_checkpoints(run.folder)):
        checkpoint.rename(run.folder.with_name(f"{run.folder.name}-{checkpoint.name if index else 'last'}"))


def start(words: list[str], log: Path) -> int:
    """Start the command in a fork, which logs to a file; returns its process id."""
    process = os.fork()
    if process:
        return process
    code = 1
    with contextlib.suppress(BaseException):
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        Run._remove_checkpoints = keep_last_checkpoint  # type: ignore[method-assign]
        try:
            tlm(words)
            code = 0
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    os._exit(code)


def finish(process: int, log: Path) -> None:
    """Wait for a training that must end by itself."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code != 0:
        raise SystemExit(f"A training ended with code {code}: {log.read_text(encoding='utf-8', errors='replace')}")


def strike(process: int, folder: Path, moment: str, target: int, delay: float) -> dict[str, Any] | None:
    """Kill the training at a moment once it has passed step `target` and written a checkpoint; None if it ended."""
    partial = folder / ".partial"
    first = max([0, *map(step_of, list_checkpoints(folder))])
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        checkpoints = list_checkpoints(folder)
        newest = step_of(checkpoints[0]) if checkpoints else 0
        if newest > first and newest >= target:
            if moment == "anywhere":
                time.sleep(delay * 0.3)
                break
            if moment == "writing a checkpoint" and any(partial.glob("checkpoint-*")):
                time.sleep(delay * 0.02)
                break
            if moment == "removing a checkpoint" and (len(checkpoints) > 2 or (partial / "old").exists()):
                break
        time.sleep(0.0005)
    else:
        return None
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    checkpoints = list_checkpoints(folder)
    return {
        "moment": moment,
        "newest_checkpoint": step_of(checkpoints[0]) if checkpoints else 0,
        "half_written": any(partial.glob("checkpoint-*")),
        "half_removed": (partial / "old").exists() or len(checkpoints) > 2,
    }


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves of nested dictionaries and lists by their path; tensors and arrays as bytes."""
    if isinstance(value, dict | list | tuple):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, part in parts for path, leaf in leaves(part, f"{name}/{key}").items()}
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    return {name: value.tobytes() if hasattr(value, "tobytes") else value}


def contents(folder: Path) -> dict[str, dict[str, Any]]:
    """What must be equal: weights, states of the last checkpoint, and all that was logged but times and rates."""
    history = read_json(folder / "results.json")["history"]
    timed = ("_runtime", "_per_second")
    curve = [{key: value for key, value in row.items() if not key.endswith(timed)} for row in history]
    compared = {"model.safetensors": leaves(load_file(folder / "model.safetensors")), "loss curve": leaves(curve)}
    with safe_globals():
        for name in STATES:
            compared[name] = leaves(torch.load(folder.with_name(f"{folder.name}-last") / name, weights_only=True))
    return compared


def stress(home: Path, kills: int, steps: int, save_steps: int, seed: int) -> dict[str, Any]:
    """Run the reference and the killed training in `home`; returns the summary."""
    write_corpus(home / "corpus.txt", seed)
    words = ["pretrain", "--corpus", str(home / "corpus.txt"), "--size", "smoke", "--max-steps", str(steps)]
    words += ["--save-steps", str(save_steps), "--eval-steps", str(5 * save_steps), "--logging-steps", "7"]
    words += ["--batch-size", "8", "--dropout", "0.1", "--disable-tqdm", "--num-threads", "1", "--output-dir"]
    reference, folder, log = home / "reference", home / "killed", home / "log"
    finish(start([*words, str(reference)], log), log)
    rng, struck = random.Random(seed), []
    while len(struck) < kills and not (folder / "results.json").exists():
        moment, target = MOMENTS[len(struck) % 3], int(len(struck) / kills * 0.9 * steps)
        kill = strike(start([*words, str(folder)], log), folder, moment, target, rng.random())
        if kill is not None:
            struck.append(kill)
            print(f"kill {len(struck)} of {kills}: {json.dumps(kill)}", file=sys.stderr, flush=True)
    finish(start([*words, str(folder)], log), log)
    ours, theirs = contents(folder), contents(reference)
    differences = [name for name in theirs if not ours[name] or ours[name] != theirs[name]]
    return {
        "kills": len(struck),
        "kills_wanted": kills,
        "while_a_checkpoint_was_half_written": sum(kill["half_written"] for kill in struck),
        "while_old_checkpoints_were_being_removed": sum(kill["half_removed"] for kill in struck),
        "damaged_checkpoints_met": log.read_text(encoding="utf-8", errors="replace").count("Damaged in "),
        "steps": steps,
        "save_steps": save_steps,
        "seed": seed,
        "compared": list(theirs),
        "differences": differences,
        "equal_to_the_last_bit": not differences,
        "left_over": sorted(path.name for path in folder.iterdir() if path.name.startswith((".", "checkpoint"))),
        "log": struck,
    }


def main() -> None:
    """Parse the options, run, print the summary, and leave with 1 where something differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--save-steps", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the summary here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="tlm-stress-") as home:
        summary = stress(Path(home), options.kills, options.steps, options.save_steps, options.seed)
    print(json.dumps({key: value for key, value in summary.items() if key != "log"}, indent=2))
    if options.json is not None:
        write_json(options.json, {**summary, **provenance()})
    if summary["kills"] < summary["kills_wanted"]:
        raise SystemExit("The training ended before all kills: give more --steps.")
    raise SystemExit(1 if summary["differences"] or summary["left_over"] else 0)


if __name__ == "__main__":
    main()
