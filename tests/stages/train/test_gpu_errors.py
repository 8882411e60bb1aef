"""After an error of the GPU the training goes on in a fresh process, without the loss that made it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lossbench.common.files import read_json
from lossbench.common.provenance import run_digest
from lossbench.config import FreshProcessError
from lossbench.stages.train.compiled import compile_networks
from lossbench.stages.train.cuda_graph import fastest
from lossbench.stages.train.gpu_errors import VARIABLE, GpuErrors, gpu_errors
from lossbench.stages.train.loop import optimise
from tests.helpers.trainings import DICE, block, run

REPOSITORY = Path(__file__).parents[3]
ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later"


class Asserting(nn.Module):
    """Does what no GPU forgives, at its sixth step or at the first one after a restart."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls > 5:
            raise torch.AcceleratorError(ASSERT)
        return (logits.softmax(1) * target).mean()


BAD = {"_target_": f"{__name__}.Asserting"}


def next_process(errors: GpuErrors, monkeypatch, **arguments) -> GpuErrors:
    error = errors.after("focal", torch.AcceleratorError(ASSERT), **arguments)
    for name, value in error.environment.items():
        monkeypatch.setenv(name, value)
    found = gpu_errors()
    assert os.environ["CUDA_LAUNCH_BLOCKING"] == ("1" if found.blocking else "0")
    return found


def test_the_first_error_is_repeated_where_it_is_told_at_once(monkeypatch):
    assert gpu_errors() == GpuErrors()
    second = next_process(GpuErrors(), monkeypatch)
    assert second == GpuErrors(blocking=True)
    third = next_process(second, monkeypatch)
    assert third.failed == {
        "focal": "losses.focal: the GPU stopped: CUDA error: device-side assert triggered"
    }
    assert not third.blocking
    fourth = next_process(third, monkeypatch, capturing=True)
    assert fourth == GpuErrors(third.failed, ["focal"])


def test_a_capture_that_breaks_the_gpu_costs_that_loss_its_graph(phantom, monkeypatch):
    class Captured:
        name, execution, device = "focal", {"speed": "auto"}, torch.device("cuda")
        loss, engine = nn.Identity(), {}

    def update(images, labels):
        raise AssertionError("it is not called here")

    def fails(*arguments):
        raise torch.AcceleratorError(ASSERT)

    monkeypatch.setattr("lossbench.stages.train.cuda_graph.capture_cuda_graph", fails)
    with pytest.raises(FreshProcessError, match="while a CUDA graph was made") as error:
        fastest(update, Captured(), torch.zeros(1), torch.zeros(1))
    monkeypatch.setenv(VARIABLE, error.value.environment[VARIABLE])
    assert fastest(update, Captured(), torch.zeros(1), torch.zeros(1)) is update


def test_a_compilation_that_breaks_the_gpu_costs_the_block_its_compiled_networks(monkeypatch):
    class Plain:
        name, execution, device = "dice", {"speed": "auto"}, torch.device("cuda")
        model, engine, update = nn.Identity(), {"graph": True}, None

    def breaks(run, update, choose=False):
        if getattr(run, "forward", run.model) is not run.model:
            raise torch.AcceleratorError(ASSERT)
        return 1.0, torch.ones(2)

    monkeypatch.setattr("lossbench.stages.train.compiled._measured", breaks)
    with pytest.raises(FreshProcessError, match="while the network was compiled") as error:
        compile_networks([Plain()], optimise, 1e9, set())
    monkeypatch.setenv(VARIABLE, error.value.environment[VARIABLE])
    run = Plain()
    compile_networks([run], optimise, 1e9, set())
    assert not hasattr(run, "forward")


def test_as_a_function_it_says_what_happened_and_replaces_no_process(phantom, tmp_path):
    with pytest.raises(FreshProcessError, match=r"losses\.bad: CUDA error: device-side assert"):
        run(block(tmp_path, phantom, {"dice": DICE, "bad": BAD}), phantom)


@pytest.mark.slow
def test_the_other_losses_are_trained_to_their_end(phantom, tmp_path):
    path = block(tmp_path, phantom, {"bad": BAD, "dice": DICE})
    store = tmp_path / "runs"
    command = [sys.executable, "-m", "lossbench", "train", "--block", path]
    folders = f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [*command, "--data", phantom.folder, "--store", store],
        env=os.environ | {"PYTHONPATH": folders},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.count("going on in a fresh process") == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: losses.bad: the GPU stopped: CUDA error: device-side assert")
    spec = json.loads(path.read_text())["runs"]["dice"]
    assert read_json(store / run_digest(spec, phantom.digest) / "status.json")["steps"] == 20
