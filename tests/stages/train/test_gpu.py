"""What can be tested of a GPU without one.

Torch's device "meta" stands for it: its tensors have shapes, types and a device, but no values. To mix
them with tensors of the CPU is an error as on a GPU; to read them, which makes the host wait for a GPU,
is one as well.
"""

from collections import Counter
from contextlib import nullcontext

import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lossbench.common.files import read_json
from lossbench.common.global_state import preserve_global_state
from lossbench.datasets.batches import Batch, Batches
from lossbench.models import build_model, to_device
from lossbench.stages.check.cost import block_cost
from lossbench.stages.check.preflight import preflight
from lossbench.stages.evaluate import evaluate
from lossbench.stages.train.cuda_graph import set_global_flags
from lossbench.stages.train.loop import optimise, take_step
from lossbench.stages.train.run import Run
from tests.helpers.catalogue import CATALOGUE, TWO_CLASSES_ALONE
from tests.helpers.check_runs import SMALL, experiment_of
from tests.helpers.trainings import DICE, MODELS, Interrupted, block, killed_at, run

META = torch.device("meta")
# Distances on the CPU, and questions to the target.
READING = {"asymmetric_unified_focal", "boundary", "hausdorff", "log_hausdorff", "smp_lovasz"}
# Constants made on the CPU. Of these and of those above, no CUDA graph can be made.
COPYING = {"nacl", "smp_dice_inverse_frequency", "wasserstein_dice"}


@pytest.fixture
def meta(monkeypatch):
    """Train on the device, without autocast and generators of numbers, which do not know it."""
    generator = torch.Generator
    for stage in ("train", "check.preflight", "evaluate"):
        monkeypatch.setattr(f"lossbench.stages.{stage}.pick_device", lambda **_: META)
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": generator())
    monkeypatch.setattr(torch, "autocast", lambda *given, **options: nullcontext())


@pytest.fixture(scope="module")
def images(prepared):
    """2D, two classes."""
    return prepared("images", fractions=[0.15], cases=8, size=[20, 24])


@pytest.fixture(scope="module")
def volumes(prepared):
    """3D, three classes."""
    return prepared("volumes", fractions=[0.15, 0.05], cases=8, size=[20, 24, 18])


class Copies(TorchDispatchMode):
    """Counts the copies from the CPU to the device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if name == "_to_copy":
            self.count += (
                args[0].device != META and torch.device(kwargs.get("device", "cpu")) == META
            )
        elif name == "copy_":
            self.count += args[0].device == META and args[1].device != META
        return func(*args, **kwargs)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("images", x) for x in CATALOGUE]
    + [("volumes", x) for x in CATALOGUE if x not in TWO_CLASSES_ALONE],
)
@pytest.mark.slow
def test_a_step_stays_on_the_device_and_reads_nothing(
    kind, name, meta, request, tmp_path, monkeypatch
):
    """Batch, augmentation, network, loss, gradients and optimiser; and nothing is copied to it."""
    monkeypatch.setattr(Batch, "is_as_made", lambda self: True)  # read after the first step alone
    data = request.getfixturevalue(kind)
    content = read_json(block(tmp_path, data, {name: CATALOGUE[name]}))
    spec = content["runs"][name]
    batches = Batches(data, spec["fold"], spec["seed"], spec["training"], META)
    batches.users = 1
    training = Run(spec, content["execution"], tmp_path / "run", data, batches)
    if name in READING:
        with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
            take_step(training)
        return
    take_step(training)
    images, labels, _ = training.batches(1)
    with Copies() as copies:
        optimise(training, images, labels)
    assert bool(copies.count) == (name in COPYING)
    assert training.sums.device == training.batch_digest.device == META


@pytest.mark.parametrize(
    ("kind", "name"),
    [("images", x) for x in MODELS]
    + [("volumes", x) for x, entry in MODELS.items() if "$spatial_dims" in entry.values()],
)
def test_a_network_stays_on_the_device_and_reads_nothing(kind, name, request):
    data = request.getfixturevalue(kind)
    size = [64] * data.info["spatial_dims"]
    model = to_device(build_model({"name": name, **MODELS[name]}, data, 0, 0), META)
    logits = model(torch.empty(2, 1, *size, device=META))
    assert logits.shape == (2, len(data.classes), *size)
    logits.sum().backward()


@pytest.mark.parametrize(
    ("speed", "steps", "tried"),
    [("auto", 600, False), ("auto", 37_500, True), ("exact", 37_500, False)],
)
def test_cudnn_tries_its_algorithms_where_that_pays(speed, steps, tried):
    with preserve_global_state():
        set_global_flags(speed, steps)
        assert torch.backends.cudnn.benchmark is tried


class Pretended(TorchDispatchMode):
    """Gives 1 for each value that is read from the device, and counts the reads."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if name == "copy_" and args[1].device == META and args[0].device != META:
            self.reads[name] += 1
            return args[0].fill_(1)
        if not (args and isinstance(args[0], torch.Tensor) and args[0].device == META):
            return func(*args, **kwargs)
        if name == "_local_scalar_dense":
            self.reads[name] += 1
            return torch.ones((), dtype=args[0].dtype, device="cpu").item()
        if name == "_to_copy" and torch.device(kwargs.get("device") or META) != META:
            self.reads[name] += 1
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return func(*args, **kwargs)


REFERENCE = "cross_entropy_inverse_frequency"  # its weights are to be on the device, too
LOSSES = {REFERENCE: CATALOGUE[REFERENCE], "dice": DICE}


def followed(steps: int) -> dict:
    """Settings by which a ledger, a validation and four rows come, however many the steps."""
    ledger = {"reference": REFERENCE, "every": steps // 2}
    every = {"log_every": steps // 4, "validate_every": steps // 2}
    return {"steps": steps, "ledger": ledger, **every}


@pytest.mark.parametrize("kind", ["images", "volumes"])
@pytest.mark.slow
def test_a_block_stays_on_the_device(kind, meta, request, tmp_path, monkeypatch):
    """Ledger, validation, checkpoint, a kill and what comes after it, evaluation."""
    data = request.getfixturevalue(kind)
    path = block(tmp_path, data, LOSSES, **followed(20))
    with monkeypatch.context() as patch, Pretended():
        killed_at(patch, 13)
        with pytest.raises(Interrupted):
            run(path, data)
    with Pretended():
        folder = run(path, data)
        evaluate(path, data.folder, folder / "cases.parquet")
    for loss in LOSSES:
        history = pd.read_csv(folder / loss / "history.csv")
        assert history["step"].tolist() == [0, 5, 10, 15, 20]
        assert history["val/dice/background"].notna().tolist() == [False, False, True, False, True]
        assert history["ledger/cosine"].notna().tolist() == [True, False, True, False, True]
        assert read_json(folder / loss / "status.json")["status"] == "finished"


@pytest.mark.slow
def test_more_steps_are_not_more_reads(images, meta, tmp_path):
    reads = []
    for steps in (8, 24):
        with Pretended() as pretended:
            run(block(tmp_path / str(steps), images, LOSSES, **followed(steps)), images)
        reads.append(pretended.reads)
    assert reads[0] == reads[1]
    assert reads[0].total() > 0


@pytest.mark.parametrize("kind", ["images", "volumes"])
@pytest.mark.slow
def test_the_check_stays_on_the_device(kind, meta, request):
    data = request.getfixturevalue(kind)
    settings = experiment_of(data, LOSSES, {"small": SMALL}, steps=20, batch_size=4)
    with Pretended() as pretended:
        assert block_cost(settings, data, "small", 1.0)["losses"].keys() == LOSSES.keys()
        assert preflight(settings, [data])
    assert pretended.reads.total() > 0


class Greedy(torch.nn.Module):
    """Memory runs out in the first step, while the dataset lies on the device."""

    tries = 0

    def forward(self, logits, target):
        Greedy.tries += 1
        if Greedy.tries == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (logits.softmax(1) * target).mean()


def test_a_dataset_makes_room_for_a_step(images, meta, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    caplog.set_level("INFO")
    Greedy.tries = 0
    losses = {"greedy": {"_target_": f"{__name__}.Greedy"}}
    with Pretended():
        folder = run(block(tmp_path, images, losses, steps=4, log_every=2), images)
    assert "greedy: memory ran out; the dataset leaves the GPU" in caplog.text
    assert read_json(folder / "greedy" / "status.json")["steps"] == 4
    assert Greedy.tries == 5
