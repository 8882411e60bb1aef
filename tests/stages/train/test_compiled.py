"""A block's networks are compiled where that pays: all of them or none, and the same after a kill."""

from functools import partial

import pandas as pd
import pytest
import torch
from torch import nn

import lossbench.stages.train.compiled as compiled
import lossbench.stages.train.loop
from lossbench.common.files import read_json
from tests.helpers.trainings import (
    LOSSES,
    Interrupted,
    block,
    equal,
    killed_at,
    run,
    weights,
)

HOUR = 3600.0


@pytest.fixture
def compilations(monkeypatch):
    """Stands for torch.compile: the same network, with a clock that runs ten times as slow."""
    made = []

    class Compiled(nn.Module):
        def __init__(self, model: nn.Module, factor: float, speed: float) -> None:
            super().__init__()
            self.inner, self.factor, self.speed = [model], factor, speed

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            clock["speed"] = self.speed
            return self.inner[0](images) * self.factor

    clock = {"now": 0.0, "speed": 1.0}
    settings = {"factor": 1.0, "speed": 0.1}

    def seconds() -> float:
        clock["now"] += clock["speed"]
        return clock["now"]

    def compile_(model, dynamic):
        made.append(model)
        return Compiled(model, **settings)

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(compiled.time, "perf_counter", seconds)
    monkeypatch.setitem(compiled.LONG, "cpu", 0.0)
    return made, settings


def used(folder) -> list[bool]:
    return [read_json(folder / loss / "status.json")["engine"]["compiled"] for loss in LOSSES]


def test_a_short_block_is_not_compiled(phantom, tmp_path, compilations, monkeypatch):
    monkeypatch.setitem(compiled.LONG, "cpu", HOUR)
    assert used(run(block(tmp_path, phantom, LOSSES), phantom)) == [False, False]
    assert not compilations[0]


def test_the_first_step_does_not_say_how_long_all_take(
    phantom, tmp_path, compilations, monkeypatch
):
    """It loads the kernels of a GPU and chooses how steps are taken, which takes seconds."""
    said, now, real = [], [0.0], lossbench.stages.train.loop.take_step

    def take_step(run):
        now[0] += 0.5 if run.step else 1000.0
        real(run)

    loop = lossbench.stages.train.loop
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(loop, "take_step", take_step)
    monkeypatch.setattr(loop, "compile_networks", lambda *given: said.append(given[2]))
    run(block(tmp_path, phantom, LOSSES), phantom)
    assert said == [18.0]  # two losses, 20 steps, of which two are done


def test_a_compiled_step_is_measured_as_it_would_be_taken(
    phantom, tmp_path, compilations, monkeypatch, caplog
):
    """As a graph, where there is one: that of the plain network may be faster."""
    caplog.set_level("INFO")

    def slow(update, run, images, labels):
        run.forward.speed = 2.0
        return update

    monkeypatch.setattr(compiled, "fastest", slow)
    assert used(run(block(tmp_path, phantom, LOSSES), phantom)) == [False, False]
    assert "0.50 times as fast" in caplog.text


def test_a_long_one_is_all_losses_or_none(phantom, tmp_path, compilations, caplog):
    caplog.set_level("INFO")
    folder = run(block(tmp_path, phantom, LOSSES), phantom)
    assert used(folder) == [True, True]
    assert len(compilations[0]) == 2
    assert "compiled, a step is 10.00 times as fast" in caplog.text


def test_torch_compile_itself_takes_the_steps(phantom, tmp_path, monkeypatch):
    """Not the stand-in: what torch gives is no plain module (it has a length, which fails)."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward  # traced and run by torch, without the minute of a C++ compiler

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setitem(compiled.LONG, "cpu", 0.0)
    monkeypatch.setattr(compiled, "GAIN", 0.0)
    folder = run(block(tmp_path, phantom, LOSSES), phantom)
    assert used(folder) == [True, True]
    assert graphs


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"speed": 1.0}, "1.00 times as fast"),
        ({"factor": 1.5}, "loss and gradient norm"),
        ({"factor": "x"}, "can't multiply"),
    ],
)
def test_what_does_not_pay_or_is_another_step_leaves_the_plain_network(
    settings, reason, phantom, tmp_path, compilations, caplog
):
    caplog.set_level("INFO")
    compilations[1].update(settings)
    folder = run(block(tmp_path / "a", phantom, LOSSES), phantom)
    assert used(folder) == [False, False]
    assert "not compiled after all" in caplog.text
    plain = run(block(tmp_path / "b", phantom, LOSSES, speed="exact"), phantom)
    for loss in LOSSES:
        assert equal(weights(folder / loss), weights(plain / loss))
        ours, theirs = (
            pd.read_csv(f / loss / "history.csv").drop(columns="seconds") for f in (folder, plain)
        )
        pd.testing.assert_frame_equal(ours, theirs)


def test_a_run_that_resumes_goes_on_as_it_began(phantom, tmp_path, compilations, monkeypatch):
    path = block(tmp_path, phantom, LOSSES)
    with monkeypatch.context() as patch:
        killed_at(patch, 13)
        with pytest.raises(Interrupted):
            run(path, phantom)
    monkeypatch.setitem(compiled.LONG, "cpu", HOUR)
    assert used(run(path, phantom)) == [True, True]


def test_a_loss_that_is_added_is_trained_as_the_others_were(
    phantom, tmp_path, compilations, monkeypatch
):
    monkeypatch.setitem(compiled.LONG, "cpu", HOUR)
    first = {"dice": LOSSES["dice"]}
    run(block(tmp_path, phantom, first), phantom)
    monkeypatch.setitem(compiled.LONG, "cpu", 0.0)
    assert used(run(block(tmp_path, phantom, LOSSES), phantom)) == [False, False]
