"""How many processes a command got, and the precision that its hardware is good at."""

import logging
import os

import torch
from transformers import TrainingArguments

from ..errors import UserError
from ..runs.output_folder import is_main_process

logger = logging.getLogger(__name__)
PRECISIONS = ("auto", "true", "false")


def stays_on_cpu(use_cpu: bool) -> bool:
    """Trainer's `use_cpu`: asked for, or no accelerator (else every process of torchrun would train alone)."""
    return use_cpu or not torch.accelerator.is_available()


def report_processes(arguments: TrainingArguments) -> None:
    """Say once how many processes there are and on what; UserError for ones without a shared process group."""
    processes, device, threads = arguments.world_size, arguments.device.type, torch.get_num_threads()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > processes:
        words = f"The launcher started {started} processes, each of which would train by itself"
        raise UserError(f"{words}: add --use-cpu to train on CPUs together, or start one process for each GPU.")
    if is_main_process():
        backend = f" ({torch.distributed.get_backend()})" if processes > 1 else ""
        together = f"Training in {processes} process{'es' * (processes > 1)}{backend} on {device}"
        precision = "bfloat16" if arguments.bf16 else "float32"
        logger.info(f"{together}, {threads} CPU thread{'s' * (threads > 1)} each, {precision}.")
        if arguments.n_gpu > 1:
            logger.warning(f"One process feeds {arguments.n_gpu} GPUs, which is slow: start with `accelerate launch`.")


def has_fast_bf16(use_cpu: bool = False) -> bool:
    """Whether the device that Trainer would take multiplies bfloat16 in hardware, not slowly by emulation."""
    if not use_cpu and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not stays_on_cpu(use_cpu):
        return torch.xpu.is_available() and bool(torch.xpu.is_bf16_supported())
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def choose_precision(asked: str | bool = "auto", use_cpu: bool = False) -> bool:
    """Whether to train under bfloat16: `--bf16`, where `auto` asks launcher and hardware; UserError if they differ."""
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
