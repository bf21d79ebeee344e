"""Kill a pre-training again and again at random moments, and compare its end bit for bit with an uninterrupted run.

    python tests/stress/kill_training.py --kills 20 --json results/training/stress.json

A smoke-size encoder is trained on generated text with dropout 0.1. The process is killed with SIGKILL: in a third of
the cases some time after a step (anywhere), in a third while a checkpoint is being written, in a third right after a
new checkpoint got its name, while older ones are removed. Then the same command is run again, until it ends. Final
weights, state of the optimizer, schedule and random numbers in the last checkpoint, and everything logged but times
must be equal to the last bit. Kills are drawn by --seed; where in the code they hit depends on the machine, so the
state of the folder after each is recorded.

The package must be installed (`pip install -e .`). With --fork every start is a fork of this process, which has
imported everything, in place of a new Python.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.trainer_pt_utils import safe_globals

import tlm_hf.runs.output_folder
from tlm_hf.commands.main import main as tlm
from tlm_hf.runs.atomic_files import write_json
from tlm_hf.runs.checkpoints import list_checkpoints, step_of
from tlm_hf.runs.provenance import provenance

WORDS = (
    "boat mill river bread flour salt baker teacher story morning evening bridge old new small runs reads counts the a"
)
MOMENTS = ("anywhere", "writing a checkpoint", "removing a checkpoint")
CHILD = "--run-and-keep-the-last-checkpoint"


def write_corpus(path: Path, texts: int, seed: int) -> None:
    """Random sentences, one a line."""
    rng = random.Random(seed)
    lines = [" ".join(rng.choices(WORDS.split(), k=rng.randint(12, 24))) + f" number {index}" for index in range(texts)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def keep_last_checkpoint() -> None:
    """Let a finished run put its last checkpoint aside, as `OUTPUT-last`, where it would remove it."""

    def aside(run: tlm_hf.runs.output_folder.Run) -> None:
        for number, checkpoint in enumerate(list_checkpoints(run.folder)):
            checkpoint.rename(run.folder.with_name(f"{run.folder.name}-{'last' if number == 0 else checkpoint.name}"))

    tlm_hf.runs.output_folder.Run._remove_checkpoints = aside  # type: ignore[method-assign]


class Training:
    """One start of the command in a process of its own; what it prints goes to a file."""

    def __init__(self, words: list[str], log: Path, fork: bool) -> None:
        self.started = time.monotonic()
        if not fork:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            command = [sys.executable, __file__, CHILD, *words]
            with log.open("ab") as file:
                self.id = subprocess.Popen(command, stdout=file, stderr=file, env=environment).pid
            return
        self.id = os.fork()
        if self.id == 0:
            code = 1
            with contextlib.suppress(BaseException):
                file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.dup2(file, 1)
                os.dup2(file, 2)
                keep_last_checkpoint()
                try:
                    tlm(words)
                    code = 0
                except SystemExit as leaving:
                    code = int(leaving.code or 0)
            os._exit(code)

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        done, status = os.waitpid(self.id, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if done else None

    def wait(self) -> int:
        """Exit code, once it has ended."""
        return os.waitstatus_to_exitcode(os.waitpid(self.id, 0)[1])


def strike(training: Training, folder: Path, moment: str, target: int, rng: random.Random) -> dict[str, Any] | None:
    """Kill the training at a moment once it has got as far as the checkpoint of step `target`; None if it ended."""
    partial, last = folder / ".partial", None
    delay = rng.random()
    while (code := training.poll()) is None:
        found = list_checkpoints(folder)
        newest = step_of(found[0]) if found else 0
        if last is None:
            last = newest
        if newest >= target and newest > last:  # this start has written a checkpoint
            if moment == "anywhere":
                time.sleep(delay * 0.3)
                break
            if moment == "writing a checkpoint" and any(partial.glob("checkpoint-*")):
                time.sleep(delay * 0.02)
                break
            if moment == "removing a checkpoint" and (len(found) > 2 or (partial / "old").exists()):
                break
        time.sleep(0.0005)
    else:
        if code != 0:
            raise SystemExit(f"The training ended by itself with code {code}: see the log beside {folder}.")
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(training.id, signal.SIGKILL)
    code = training.wait()
    if code != -signal.SIGKILL:
        return None
    found = list_checkpoints(folder)
    return {
        "moment": moment,
        "newest_checkpoint": step_of(found[0]) if found else 0,
        "checkpoints": len(found),
        "half_written": any(partial.glob("checkpoint-*")),
        "half_removed": (partial / "old").exists(),
        "seconds": round(time.monotonic() - training.started, 2),
    }


def curve(folder: Path) -> list[dict[str, Any]]:
    """All that a run logged, without times and rates."""
    history = json.loads((folder / "results.json").read_text(encoding="utf-8"))["history"]
    timed = ("_runtime", "_per_second")
    return [{key: value for key, value in row.items() if not key.endswith(timed)} for row in history]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves of nested dictionaries and lists by their path; tensors and arrays as bytes."""
    if isinstance(value, dict):
        return {key: leaf for part in value for key, leaf in flat(value[part], f"{name}/{part}").items()}
    if isinstance(value, list | tuple):
        return {key: leaf for index, part in enumerate(value) for key, leaf in flat(part, f"{name}/{index}").items()}
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    return {name: value.tobytes() if hasattr(value, "tobytes") else value}


def differences(folder: Path, reference: Path) -> list[str]:
    """What is not equal to the last bit: files, and how many of their entries."""
    pairs = {"model.safetensors": [flat(load_file(path / "model.safetensors")) for path in (folder, reference)]}
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with safe_globals():
            paths = (path.with_name(f"{path.name}-last") / name for path in (folder, reference))
            pairs[name] = [flat(torch.load(path, weights_only=True)) for path in paths]
    pairs["loss curve"] = [flat(curve(path)) for path in (folder, reference)]
    found = []
    for name, (ours, theirs) in pairs.items():
        if not ours or ours.keys() != theirs.keys():
            found.append(f"{name}: other entries")
        elif unequal := sum(ours[key] != theirs[key] for key in ours):
            found.append(f"{name}: {unequal} of {len(ours)} entries")
    return found


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def stress(home: Path, kills: int, steps: int, save_steps: int, seed: int, fork: bool) -> dict[str, Any]:
    """Run the reference and the killed training in `home`; returns the summary."""
    write_corpus(home / "corpus.txt", 400, seed)
    words = ["pretrain", "--corpus", str(home / "corpus.txt"), "--size", "smoke", "--max-steps", str(steps)]
    words += ["--save-steps", str(save_steps), "--eval-steps", str(5 * save_steps), "--logging-steps", "7"]
    words += ["--batch-size", "8", "--dropout", "0.1", "--disable-tqdm", "--num-threads", "1"]
    reference, folder = home / "reference", home / "killed"
    code = Training([*words, "--output-dir", str(reference)], home / "reference.log", fork).wait()
    if code != 0:
        raise SystemExit(f"The uninterrupted training ended with code {code}: see reference.log in {home}.")
    say("The uninterrupted run is done.")
    rng, log = random.Random(seed), []
    starts = 0
    while not (folder / "results.json").exists():
        training = Training([*words, "--output-dir", str(folder)], home / "killed.log", fork)
        starts += 1
        if len(log) == kills:
            if (code := training.wait()) != 0:
                raise SystemExit(f"The last start ended with code {code}: see killed.log in {home}.")
            break
        number = len(log)
        target = int(number / kills * 0.9 * steps)
        struck = strike(training, folder, MOMENTS[number % 3], target, rng)
        if struck is not None:
            log.append(struck)
            say(f"kill {len(log)} of {kills}: {json.dumps(struck)}")
    unequal = differences(folder, reference)
    log_text = (home / "killed.log").read_text(encoding="utf-8", errors="replace")
    return {
        "kills": len(log),
        "kills_wanted": kills,
        "starts": starts,
        "while_a_checkpoint_was_half_written": sum(entry["half_written"] for entry in log),
        "while_old_checkpoints_were_being_removed": sum(
            entry["half_removed"] or entry["checkpoints"] > 2 for entry in log
        ),
        "damaged_checkpoints_met": log_text.count("Damaged in "),
        "steps": steps,
        "save_steps": save_steps,
        "seed": seed,
        "fork": fork,
        "compared": ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "loss curve"],
        "differences": unequal,
        "equal_to_the_last_bit": not unequal,
        "left_over": sorted(path.name for path in folder.iterdir() if path.name.startswith((".", "checkpoint"))),
        "log": log,
    }


def main() -> None:
    """Parse the options, run, print the summary, and leave with 1 where something differs."""
    if sys.argv[1:2] == [CHILD]:
        keep_last_checkpoint()
        return tlm(sys.argv[2:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--save-steps", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fork", action="store_true", help="start by forking this process (no imports each time)")
    parser.add_argument("--json", type=Path, help="write the summary here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="tlm-stress-") as home:
        summary = stress(Path(home), options.kills, options.steps, options.save_steps, options.seed, options.fork)
    print(json.dumps({key: value for key, value in summary.items() if key != "log"}, indent=2))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, {**summary, **provenance()})
    missed = summary["kills"] < summary["kills_wanted"]
    if missed:
        say("The training ended before all kills: give more --steps.")
    raise SystemExit(1 if missed or summary["differences"] or summary["left_over"] else 0)


if __name__ == "__main__":
    main()
