"""How many processes a command really got, and the precision that its hardware is good at.

`accelerate launch --cpu --num_processes 2` starts one process and says nothing; torchrun starts as many as it is told,
and without a GPU each of them trains by itself unless Trainer is told to stay on the CPU. Both look like success from
outside, so every training says what it runs on, warns when the launcher was asked for more, and refuses the second.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import torch
from transformers import TrainingArguments

from ..errors import UserError
from ..runs.output_folder import is_main_process

logger = logging.getLogger(__name__)
TWO_ON_A_CPU = "torchrun --nproc_per_node N scripts/pretrain.py --use-cpu ..."
"""The command that does start several processes on a CPU."""
SCHEDULERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_NTASKS")
"""Variables in which mpirun and Slurm say how many processes they were asked for."""
PRECISIONS = ("auto", "true", "false")
PROCESS_OPTION, CONFIG_OPTION = "--num-processes", "--config-file"


def launched_with() -> list[str]:
    """Words after `launch` of the `accelerate launch` that started this process; empty when none did."""
    try:
        parents = psutil.Process().parents()[:3]
        lines = [parent.cmdline() for parent in parents]
    except psutil.Error:  # a system that does not let us look
        return []
    for words in lines:
        names = [Path(word).name for word in words[:4]]
        for index, name in enumerate(names):
            if name in ("accelerate-launch", "launch.py", "accelerate.commands.launch"):
                return words[index + 1 :]
            if name == "accelerate" and words[index + 1 : index + 2] == ["launch"]:
                return words[index + 2 :]
    return []


def _option(words: Sequence[str], name: str) -> str | None:
    """Value of a launcher's option, written `--a-b c`, `--a_b c` or `--a-b=c`, before the script's own options."""
    for index, word in enumerate(words):
        if word.endswith(".py"):  # the script: what follows is its own
            return None
        option, _, value = word.partition("=")
        if option.replace("_", "-") == name:
            return value or (words[index + 1] if index + 1 < len(words) else None)
    return None


def processes_asked_for(environment: Mapping[str, str], launcher: Sequence[str]) -> int:
    """How many processes launcher and scheduler were asked for, as far as that can be seen; 1 when nothing says.

    Args:
        environment: variables such as `os.environ`.
        launcher: words of `accelerate launch`, from `launched_with`; its own default configuration counts too.
    """
    asked = [environment.get(name, "") for name in ("WORLD_SIZE", *SCHEDULERS)]
    if launcher:
        given = _option(launcher, PROCESS_OPTION)
        asked.append(str(_configured(_option(launcher, CONFIG_OPTION))) if given is None else given)
    return max([1, *(int(value) for value in asked if value.isdigit())])


def _configured(file: str | None) -> int:
    """`num_processes` of a configuration of Accelerate, or of the user's default one; 1 where there is none."""
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file

    if file is None and not os.path.isfile(default_config_file):
        return 1
    return int(load_config_from_file(file).num_processes)


def report_processes(options: TrainingArguments) -> str:
    """Say once, on the main process, how many processes there are and on what; warn when more were asked for.

    Args:
        options: Trainer's; reading its device has joined the processes.

    Returns:
        The sentence that was said.

    Raises:
        UserError: the launcher started several processes that know nothing of each other.
    """
    processes, device = options.world_size, options.device.type
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > processes:
        raise UserError(
            f"The launcher started {started} processes, each of which would train by itself: add --use-cpu to train on "
            "CPUs together, or start one process for each GPU."
        )
    asked = processes_asked_for(os.environ, launched_with())
    backend = f" ({torch.distributed.get_backend()})" if processes > 1 else ""
    said = f"Training in {processes} process{'es' * (processes > 1)}{backend} on {device}"
    said += f", {torch.get_num_threads()} CPU thread{'s' * (torch.get_num_threads() > 1)} each"
    said += f", {'bfloat16' if options.bf16 else 'float32'}."
    if is_main_process():
        logger.info(said)
        if options.n_gpu > 1:
            logger.warning(
                f"One process feeds {options.n_gpu} GPUs, which is slow: start with `accelerate launch --multi_gpu "
                f"--num_processes {options.n_gpu}`."
            )
        if asked > processes:
            remedy = TWO_ON_A_CPU.replace(" N ", f" {asked} ") if device == "cpu" else "accelerate launch --multi_gpu"
            logger.warning(
                f"WARNING: {asked} processes were asked for and {processes} started (`accelerate launch --cpu` starts "
                f"only one): use `{remedy}`."
            )
    return said


def has_fast_bf16(use_cpu: bool = False) -> bool:
    """Whether the device that Trainer would take multiplies bfloat16 in hardware.

    A CPU does with avx512_bf16 or amx_bf16; an NVIDIA GPU from compute capability 8.0. Emulated bfloat16 is slower than
    float32, so it does not count; nor does Apple's mps, where autocast is not tested.
    """
    if not use_cpu and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not use_cpu and hasattr(torch, "xpu") and torch.xpu.is_available():
        return bool(torch.xpu.is_bf16_supported())
    if not use_cpu and torch.accelerator.is_available():
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def choose_precision(asked: str = "auto", use_cpu: bool = False) -> bool:
    """Whether to train under bfloat16 autocast; float32 otherwise (float16 needs loss scaling and is never chosen).

    Args:
        asked: `--bf16`: `true`, `false`, or `auto`, which asks the launcher's `mixed_precision` and then the hardware.
        use_cpu: as in `TrainingArguments`.

    Raises:
        UserError: another word, or a launcher that was asked for another precision.
    """
    word = str(asked).lower()
    if word not in PRECISIONS:
        raise UserError(f"--bf16 is {asked!r}: choose {', '.join(PRECISIONS)}.")
    # Trainer follows this variable even where its own `bf16` is False.
    launcher = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launcher not in ("no", "bf16"):
        raise UserError(f"accelerate launch was asked for mixed precision {launcher!r}: choose no or bf16.")
    if word == "false" and launcher == "bf16":
        raise UserError("accelerate launch was asked for bf16 and --bf16 is false: leave one of them out.")
    return word == "true" or launcher == "bf16" or (word == "auto" and has_fast_bf16(use_cpu))
