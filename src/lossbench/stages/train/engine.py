"""How a step is computed: faster, and the same up to rounding. Each part has a setting."""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format, convert_conv3d_weight_memory_format

# A training step: images and labels of a batch -> loss and gradient norm, scalars on the device.
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
REHEARSALS = 3  # of a step before it is captured, as torch's manual has it


def place(model: nn.Module, device: torch.device, training: Mapping[str, Any]) -> nn.Module:
    """The network on its device, ready to train; with `channels_last`, weights in that layout.

    On a GPU only those of 2D convolutions: 3D normalisation there knows no such layout yet, and
    copies (https://github.com/pytorch/pytorch/pull/194616).
    """
    model = model.to(device).train()
    if training["channels_last"]:
        convert_conv2d_weight_memory_format(model, torch.channels_last)
        if device.type == "cpu":
            convert_conv3d_weight_memory_format(model, torch.channels_last_3d)
    return model


def make_optimizer(model: nn.Module, training: Mapping[str, Any]) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum; with `fused`, a kernel for all weights."""
    device, rate = next(model.parameters()).device, training["learning_rate"]
    graph = is_captured(device, training)
    own = {
        # A graph reads the rate from the device, which the fused kernels alone can do.
        "lr": torch.tensor(rate, device=device) if graph else rate,
        "weight_decay": training["weight_decay"],
        "fused": training["fused"] or graph,
    }
    if training["optimizer"] == "adamw":
        return torch.optim.AdamW(model.parameters(), capturable=graph, **own)
    momentum = training["momentum"]
    return torch.optim.SGD(model.parameters(), momentum=momentum, nesterov=momentum > 0, **own)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the random numbers that a network or a loss draws, on the host and on the device.

    As torch.manual_seed, which takes a trace of the stack (5 ms) where there is no GPU.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


@functools.cache
def compiled() -> Callable[[nn.Module, Tensor], Tensor]:
    """The call of a network, to be compiled at its first one, once for all networks of a kind.

    Random numbers are those of the network that is not compiled.
    """
    return torch.compile(_call, dynamic=False, options={"fallback_random": True})


def _call(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


def not_compiled(error: Exception) -> bool:
    """Whether compiling is what failed."""
    return isinstance(error, torch._dynamo.exc.TorchDynamoException)


def is_captured(device: torch.device, training: Mapping[str, Any]) -> bool:
    """Whether a step is to be a CUDA graph."""
    return training["cuda_graph"] and device.type == "cuda"


def own_stream(device: torch.device, training: Mapping[str, Any]) -> torch.cuda.Stream | None:
    """A CUDA stream for the steps of a run, where it takes them beside other runs."""
    beside = training["side_by_side"] and device.type == "cuda"
    return torch.cuda.Stream(device) if beside else None


@contextmanager
def on_stream(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """What is launched within waits for what was launched before, and nothing waits for it.

    Without a stream, everything is launched in one order as ever.
    """
    if stream:
        stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield


def captured(
    step: Step, model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> Step:
    """A step as a CUDA graph: its kernels are recorded once, and launched all at once from then on.

    Parameters
    ----------
    step
        Reads nothing from the device, and takes the rate from the optimiser, a tensor there.
    model, optimizer
        What the step changes; as they were when this returns.
    images, labels
        A batch, of the shapes of all batches.

    Returns
    -------
    Step
        The same one; what it returns is written over by its next call.
    """
    images, labels = images.clone(), labels.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        rehearse(lambda: step(images, labels), model, optimizer)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Of this thread alone: another one may be reading the next batch into pinned memory.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = step(images, labels)

    def replay(new_images: Tensor, new_labels: Tensor) -> tuple[Tensor, Tensor]:
        images.copy_(new_images)
        labels.copy_(new_labels)
        graph.replay()
        return found

    return replay


def rehearse(
    step: Callable[[], object], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Take a step some times, so that all it allocates is there; then put back what it changed.

    The tensors of the model and of the optimiser stay where they are. Moments that the optimiser
    did not have before are 0, as it makes them.
    """
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moments = {
        parameter: {name: tensor.clone() for name, tensor in state.items()}
        for parameter, state in optimizer.state.items()
    }
    for _ in range(REHEARSALS):
        step()
    model.load_state_dict(weights)
    for parameter, state in optimizer.state.items():
        for name, tensor in state.items():
            before = moments.get(parameter, {}).get(name)
            tensor.zero_() if before is None else tensor.copy_(before)
