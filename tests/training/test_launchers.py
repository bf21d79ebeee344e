"""What launchers really start, what we say about it, our Accelerate configurations, and the chosen precision.

Oracles: launchers in processes of their own; Accelerate's own reading of the files; the kernel's list of what the
processor can do.
"""

import re
from pathlib import Path

import pytest
import torch
from conftest import TINY
from helpers_commands import ROOT, start_launcher

from tlm_hf import TLMConfig, TLMForMaskedLM
from tlm_hf.errors import UserError
from tlm_hf.models.layers_tlm import TLMLayer
from tlm_hf.training import processes
from tlm_hf.training.processes import choose_precision, has_fast_bf16

CONFIGS = ROOT / "scripts" / "accelerate_configs"
REPORTER = """
import logging, sys
from transformers import TrainingArguments
from tlm_hf.commands.common import run_command
from tlm_hf.training.processes import report_processes
run_command(lambda: report_processes(TrainingArguments("unused", use_cpu="--use-cpu" in sys.argv)))
"""


# --- what launchers really start


def reporting(folder, *words, **environment):
    (folder / "reporter.py").write_text(REPORTER)
    return start_launcher([*words, "reporter.py", "--use-cpu"], folder, **environment)


def test_our_configuration_for_two_cpu_processes_starts_two(tmp_path):
    done = reporting(tmp_path, "accelerate.commands.launch", "--config_file", CONFIGS / "two_cpu_processes.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("Training in 2 processes (gloo) on cpu") == 1
    assert "WARNING" not in done.stderr


@pytest.mark.skipif(torch.accelerator.is_available(), reason="processes join through the accelerator")
def test_processes_that_do_not_know_each_other_are_refused(tmp_path):
    (tmp_path / "reporter.py").write_text(REPORTER)
    done = start_launcher(["torch.distributed.run", "--standalone", "--nproc_per_node", 2, "reporter.py"], tmp_path)
    assert done.returncode != 0
    assert "error: The launcher started 2 processes, each of which would train by itself: add --use-cpu" in done.stderr


# --- configurations


@pytest.mark.parametrize(
    ("name", "kind", "count", "precision"),
    [
        ("one_gpu", "NO", 1, "bf16"),
        ("one_node_8_gpus", "MULTI_GPU", 8, "bf16"),
        ("many_nodes_fsdp2", "FSDP", 16, "bf16"),
        ("two_cpu_processes", "MULTI_GPU", 2, "no"),
    ],
)
def test_accelerate_reads_our_configurations(name, kind, count, precision):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    path = CONFIGS / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert (config.distributed_type, config.num_processes, config.mixed_precision) == (kind, count, precision)
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "scripts/pretrain.py"])
    arguments, _, _ = _validate_launch_command(arguments)
    assert arguments.num_processes == count
    assert (arguments.multi_gpu, arguments.use_fsdp) == (kind == "MULTI_GPU", kind == "FSDP")
    assert arguments.mixed_precision == precision
    if kind == "FSDP":
        assert arguments.fsdp_version == 2


def test_fsdp_wraps_our_layers_and_nothing_else(monkeypatch):
    """The embeddings' weight is the decoder's too: as a unit of their own they would take it away from it."""
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy

    given = load_config_from_file(str(CONFIGS / "many_nodes_fsdp2.yaml")).fsdp_config
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=given["fsdp_transformer_layer_cls_to_wrap"].split(","),
    )
    model = TLMForMaskedLM(TLMConfig(**{**TINY, "num_hidden_layers": 3}))
    policy = fsdp2_prepare_auto_wrap_policy(plugin, model)
    wrapped = [module for module in model.modules() if policy(module)]
    assert len(wrapped) == 3
    assert all(type(module) is TLMLayer for module in wrapped)


# --- precision


def test_precision_follows_the_processor():
    """Oracle: the flags that the kernel lists."""
    lines = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)$", lines.read_text(), re.M) if lines.is_file() else None
    if flags is None:
        pytest.skip("no list of this processor's flags")
    expected = bool({"avx512_bf16", "amx_bf16"} & set(flags[1].split()))
    assert has_fast_bf16(use_cpu=True) == expected


@pytest.mark.parametrize(
    ("asked", "launcher", "fast", "chosen"),
    [
        ("auto", "no", True, True),
        ("auto", "no", False, False),
        ("true", "no", False, True),
        (True, "no", False, True),
        (False, "no", True, False),
        ("False", None, True, False),
        ("auto", "bf16", False, True),
        ("auto", None, True, True),
    ],
)
def test_chosen_precision(monkeypatch, asked, launcher, fast, chosen):
    monkeypatch.setattr(processes, "has_fast_bf16", lambda use_cpu: fast)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launcher is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    assert choose_precision(asked) is chosen


@pytest.mark.parametrize(("asked", "launcher"), [("fp16", "no"), ("", "no"), ("auto", "fp16"), ("false", "bf16")])
def test_refused_precision(monkeypatch, asked, launcher, one_sentence):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    with pytest.raises(UserError) as error:
        choose_precision(asked)
    one_sentence(error.value)
