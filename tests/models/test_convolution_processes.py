"""BatchNorm statistics of the front-end over several processes: they are those of the whole batch.

Oracle: the same model in this process on the whole batch, which `test_convolution` holds against plain torch.
"""

import pytest
import torch
import torch.nn.functional as F
from helpers_commands import run
from helpers_models import close, compare_gradients
from test_convolution import KERNELS, build_model, padded_batch

from tlm_hf import TLMForMaskedLM

WORKER = """
import os, sys, torch
from torch.nn.parallel import DistributedDataParallel
from tlm_hf import TLMConfig, TLMForMaskedLM
from tlm_hf.models.convolution_tlm import MaskedBatchNorm2d

folder = sys.argv[1]
torch.set_num_threads(1)
child = os.fork()
rank, store = int(child == 0), torch.distributed.FileStore(f"{folder}/meeting", 2)
torch.distributed.init_process_group("gloo", rank=rank, world_size=2, store=store)
given = torch.load(f"{folder}/given.pt", weights_only=True)
computed = {}
for name, (fields, synchronise, halves) in given["cases"].items():
    MaskedBatchNorm2d.synchronise = synchronise
    model = TLMForMaskedLM(TLMConfig(**fields))
    model.load_state_dict(given["state"])
    wrapped = DistributedDataParallel(model.train())
    labelled = sum(int((half["labels"] != -100).sum()) for half in halves)
    share = 2 * int((halves[rank]["labels"] != -100).sum()) / labelled
    loss = wrapped(**halves[rank]).loss * share  # so that the mean over processes is the mean over the whole batch
    loss.backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    computed[name] = {"loss": loss.detach(), "gradients": gradients, "buffers": dict(model.named_buffers())}
torch.save(computed, f"{folder}/computed{rank}.pt")
torch.distributed.destroy_process_group()
if rank == 0:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def batch(lengths, width, seed, masked=True):
    inputs, labels = padded_batch(lengths, width, seed)
    if not masked:
        del inputs["attention_mask"]
    return {**inputs, "labels": labels}


def joined(halves):
    width = max(half["labels"].shape[1] for half in halves)
    parts = []
    for half in halves:
        mask = half.get("attention_mask", torch.ones_like(half["input_ids"]))
        extra = (0, width - mask.shape[1])
        labels = F.pad(half["labels"], extra, value=-100)
        parts.append((F.pad(half["input_ids"], extra), F.pad(mask, extra), labels))
    names = ("input_ids", "attention_mask", "labels")
    return {name: torch.cat(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)}


PADDED = [batch([9, 4, 1], 9, 1), batch([12, 3], 12, 2)]
CASES = {
    "padding": ({}, True, PADDED),
    "no mask": ({}, True, [batch([7] * 3, 7, 3, masked=False), batch([11] * 2, 11, 4, masked=False)]),
    "sees padding": ({"conv_sees_padding": True}, True, PADDED),
    "apart": ({}, False, PADDED),
}


def start(**fields):
    return build_model(TLMForMaskedLM, KERNELS["conv2"], **fields).train()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    cases = {name: (start(**fields).config.to_dict(), *rest) for name, (fields, *rest) in CASES.items()}
    torch.save({"state": start().state_dict(), "cases": cases}, folder / "given.pt")
    done = run("-c", WORKER, folder, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return [torch.load(folder / f"computed{rank}.pt", weights_only=True) for rank in range(2)]


def check_statistics(buffers, model):
    assert len(buffers) == 9
    for name, expected in model.named_buffers():
        close(buffers[name], expected)


@pytest.mark.parametrize("case", ["padding", "no mask", "sees padding"])
def test_two_halves_are_the_whole_batch(processes, case):
    fields, _, halves = CASES[case]
    model = start(**fields)
    loss = model(**joined(halves)).loss
    loss.backward()
    close((processes[0][case]["loss"] + processes[1][case]["loss"]) / 2, loss.detach())
    for process in processes:
        compare_gradients(process[case]["gradients"], model)
        check_statistics(process[case]["buffers"], model)


@pytest.mark.parametrize("rank", [0, 1])
def test_without_synchronisation_each_process_has_its_own_statistics(processes, rank):
    halves = CASES["apart"][2]
    model = start()
    loss = model(**halves[rank]).loss.detach()
    labelled = [int((half["labels"] != -100).sum()) for half in halves]
    close(processes[rank]["apart"]["loss"], loss * 2 * labelled[rank] / sum(labelled))
    check_statistics(processes[rank]["apart"]["buffers"], model)
