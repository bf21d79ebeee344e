"""BatchNorm statistics of the front-end over several processes: they are those of the whole batch.

Oracle, in this process alone: every text without its padding through `torch.nn.functional.conv2d`, all token positions
of the whole batch laid side by side through `torch.nn.functional.batch_norm`, stock BERT's embeddings, layers and head.
torchrun starts the two other processes (gloo, CPU) once: first DistributedDataParallel on hand-made halves of a batch,
then our Trainer for a few steps.
"""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, TINY
from safetensors.torch import load_file
from test_convolution import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, KERNELS, build_config, build_model, padded_batch
from transformers import BertConfig, BertForMaskedLM

from tlm_hf import TLMForMaskedLM
from tlm_hf.models.convolution_tlm import MaskedBatchNorm2d

RATE, STEPS = 0.1, 3

WORKER = """
import os, sys, torch
from torch.nn.functional import pad
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainingArguments
from tlm_hf import TLMConfig, TLMForMaskedLM
from tlm_hf.models.convolution_tlm import MaskedBatchNorm2d
from tlm_hf.training.trainer import RunTrainer

folder, rate = sys.argv[1], float(sys.argv[2])
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
given = torch.load(f"{folder}/given.pt", weights_only=True)

def build(fields):
    model = TLMForMaskedLM(TLMConfig(**fields))
    model.load_state_dict(given["state"])
    return model.train()

found = {}
for name, (fields, synchronise, halves) in given["cases"].items():
    MaskedBatchNorm2d.synchronise = synchronise
    model = build(fields)
    wrapped = DistributedDataParallel(model)
    labelled = sum(int((half["labels"] != -100).sum()) for half in halves)
    share = 2 * int((halves[rank]["labels"] != -100).sum()) / labelled
    loss = wrapped(**halves[rank]).loss * share  # so that the mean over processes is the mean over the whole batch
    loss.backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}
    found[name] = {"loss": loss.detach(), "gradients": gradients, "buffers": dict(model.named_buffers())}
MaskedBatchNorm2d.synchronise = True
model = build(given["cases"]["padding"][0])
arguments = TrainingArguments(
    f"{folder}/run", use_cpu=True, per_device_train_batch_size=2, max_steps=int(sys.argv[3]), optim="sgd",
    learning_rate=rate, lr_scheduler_type="constant", max_grad_norm=0.0, disable_tqdm=True, report_to="none",
    train_sampling_strategy="sequential",
)
assert arguments.world_size == 2
RunTrainer(model=model, args=arguments, train_dataset=given["rows"]).train()
found["trainer"] = {"buffers": dict(model.named_buffers())}
torch.save(found, f"{folder}/found{rank}.pt")
torch.distributed.destroy_process_group()
"""


class Reference:
    """The description in one process, on copies of the model's weights."""

    def __init__(self, model):
        self.stock = BertForMaskedLM(BertConfig(**TINY))
        state = {name: value for name, value in model.state_dict().items() if ".front_end." not in name}
        self.stock.load_state_dict(state, strict=True)
        prefix = "bert.front_end."
        self.front_end = {
            name.removeprefix(prefix): value.detach().clone().requires_grad_(value.is_floating_point())
            for name, value in model.state_dict().items()
            if name.startswith(prefix)
        }
        self.buffers = {name: value for name, value in self.front_end.items() if "running" in name or "num_" in name}
        for buffer in self.buffers.values():
            buffer.requires_grad_(False)
        self.parameters = {
            f"{prefix}{name}": self.front_end[name] for name in self.front_end if name not in self.buffers
        }
        self.parameters |= dict(self.stock.named_parameters())

    def convolve(self, texts):
        """Texts (1, length, hidden) of any lengths to the same, folding the statistics of all positions in."""
        pictures = [text[:, None] for text in texts]
        for block in ("layers.0", "layers.1", "projection"):
            kernel, bias = (self.front_end[f"{block}.convolution.{name}"] for name in ("weight", "bias"))
            side_by_side = torch.cat([F.conv2d(picture, kernel, bias, padding="same") for picture in pictures], dim=2)
            norm = [
                self.front_end[f"{block}.batch_norm.{name}"]
                for name in ("running_mean", "running_var", "weight", "bias")
            ]
            normal = F.batch_norm(side_by_side, *norm, True, BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON)
            self.front_end[f"{block}.batch_norm.num_batches_tracked"] += 1
            pictures = F.gelu(normal).split([picture.shape[2] for picture in pictures], dim=2)
        return [picture[:, 0] for picture in pictures]

    def loss(self, texts, sees_padding=False):
        """Mean cross-entropy of (ids, labels) pairs of any lengths."""
        longest = TINY["max_position_embeddings"] if sees_padding else 0
        padded = [F.pad(ids, (0, max(0, longest - len(ids)))) for ids, _ in texts]
        states = self.convolve([self.stock.bert.embeddings(ids[None]) for ids in padded])
        states = [state[:, : len(ids)] for state, (ids, _) in zip(states, texts, strict=True)]
        scores = torch.cat([self.stock.cls(self.stock.bert.encoder(state).last_hidden_state)[0] for state in states])
        return F.cross_entropy(scores, torch.cat([labels for _, labels in texts]), ignore_index=-100)


def batch(lengths, width, seed, masked=True):
    inputs, labels = padded_batch(lengths, width, seed)
    if not masked:
        del inputs["attention_mask"]
    return {**inputs, "labels": labels}


def texts_of(*batches):
    """(ids, labels) of every text, without padding."""
    texts = []
    for one in batches:
        mask = one.get("attention_mask", torch.ones_like(one["input_ids"]))
        for ids, labels, length in zip(one["input_ids"], one["labels"], mask.sum(dim=1), strict=True):
            texts.append((ids[:length], labels[:length]))
    return texts


ROWS = batch([9, 4, 7, 2, 8, 8, 3, 5, 9, 6, 1, 9], 9, 5)
CASES = {
    "padding": ({}, True, [batch([9, 4, 1], 9, 1), batch([12, 3], 12, 2)]),
    "no mask": ({}, True, [batch([7] * 3, 7, 3, masked=False), batch([11] * 2, 11, 4, masked=False)]),
    "sees padding": ({"conv_sees_padding": True}, True, [batch([9, 4, 1], 9, 1), batch([12, 3], 12, 2)]),
    "apart": ({}, False, [batch([9, 4, 1], 9, 1), batch([12, 3], 12, 2)]),
    "apart, no mask": ({}, False, [batch([7] * 3, 7, 3, masked=False), batch([11] * 2, 11, 4, masked=False)]),
}


def start():
    return build_model(TLMForMaskedLM, KERNELS["conv2"])


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """(folder, what each of the two processes found)."""
    folder = tmp_path_factory.mktemp("processes")
    cases = {
        name: (build_config(KERNELS["conv2"], **fields).to_dict(), synchronise, halves)
        for name, (fields, synchronise, halves) in CASES.items()
    }
    rows = [{name: values[row] for name, values in ROWS.items()} for row in range(len(ROWS["labels"]))]
    torch.save({"state": start().state_dict(), "cases": cases, "rows": rows}, folder / "given.pt")
    (folder / "worker.py").write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(folder / "worker.py"), str(folder), str(RATE), str(STEPS)]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, [torch.load(folder / f"found{rank}.pt", weights_only=True) for rank in range(2)]


def assert_statistics(buffers, reference):
    assert len(buffers) == len(reference.buffers) == 9
    for name, expected in reference.buffers.items():
        torch.testing.assert_close(buffers[f"bert.front_end.{name}"], expected, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("case", ["padding", "no mask", "sees padding"])
def test_two_halves_are_the_whole_batch(processes, case):
    _, (one, other) = processes
    _, _, halves = CASES[case]
    reference = Reference(start())
    loss = reference.loss(texts_of(*halves), sees_padding=case == "sees padding")
    torch.testing.assert_close((one[case]["loss"] + other[case]["loss"]) / 2, loss.detach(), atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(loss, list(reference.parameters.values()), allow_unused=True)
    expected = {
        name: gradient for name, gradient in zip(reference.parameters, gradients, strict=True) if gradient is not None
    }
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for found in (one[case], other[case]):
        assert set(expected) == {name for name, gradient in found["gradients"].items() if gradient.abs().any()}
        for name, gradient in expected.items():
            assert float((found["gradients"][name] - gradient).abs().max()) <= 1e-5 * largest, name
        assert_statistics(found["buffers"], reference)


@pytest.mark.parametrize("case", ["apart", "apart, no mask"])
def test_without_synchronisation_each_process_has_its_own_statistics(processes, case):
    _, found = processes
    _, _, halves = CASES[case]
    for rank in range(2):
        reference = Reference(start())
        loss = reference.loss(texts_of(halves[rank])).detach()
        labelled = [int((half["labels"] != -100).sum()) for half in halves]
        share = 2 * labelled[rank] / sum(labelled)
        torch.testing.assert_close(found[rank][case]["loss"], loss * share, atol=1e-5, rtol=1e-5)
        assert_statistics(found[rank][case]["buffers"], reference)


def test_trainer_in_two_processes_saves_the_statistics_of_the_whole_batch(processes):
    """Each process takes two texts a step; plain SGD in one process takes the same four."""
    folder, found = processes
    reference = Reference(start())
    optimizer = torch.optim.SGD(reference.parameters.values(), lr=RATE)
    for step in range(STEPS):
        four = {name: values[4 * step : 4 * step + 4] for name, values in ROWS.items()}
        reference.loss(texts_of(four)).backward()
        optimizer.step()
        optimizer.zero_grad()
    saved = load_file(folder / "run" / f"checkpoint-{STEPS}" / "model.safetensors")
    for buffers in (saved, found[0]["trainer"]["buffers"], found[1]["trainer"]["buffers"]):
        assert_statistics(
            {name: value for name, value in buffers.items() if "running" in name or "num_" in name}, reference
        )
    for name, parameter in reference.parameters.items():
        if name in saved:
            torch.testing.assert_close(saved[name], parameter.detach(), atol=1e-5, rtol=1e-4, msg=name)


def test_one_process_and_a_torch_without_distributed_need_no_group(monkeypatch):
    """Builds without torch.distributed have `is_available` and nothing else of it."""
    states, mask = torch.randn(2, 3, 4, 5), torch.tensor([[1.0] * 4, [1, 1, 0, 0]])[:, None, :, None]
    norm = MaskedBatchNorm2d(3).train()
    expected = [norm(states), norm(states, mask)]
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    for name in ("is_initialized", "get_world_size", "all_reduce"):
        monkeypatch.delattr(torch.distributed, name)
    assert torch.equal(norm(states), expected[0])
    assert torch.equal(norm(states, mask), expected[1])
