"""How a step is executed: eagerly, or on a GPU as a CUDA graph. The same up to rounding."""

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lossbench.losses.schedule import takes_step
from lossbench.stages.train.gpu_errors import gpu_errors

if TYPE_CHECKING:
    from lossbench.stages.train.run import Run

log = logging.getLogger(__name__)
# Images (B, C, *S) and labels (B, *S) of a batch -> loss and gradient norm, scalars on the device.
Update = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
WARMUP_STEPS = 3  # before a step is captured, as PyTorch's notes on CUDA graphs have it
# Steps of a process from which cuDNN tries its algorithms. On an H100 the first step of unet_small
# took 17 s longer for it: 0.9 ms in each of so many.
AUTOTUNED_STEPS = 20_000


def set_global_flags(speed: str, steps: int) -> None:
    """Set what torch keeps for the whole process, which takes so many steps.

    `exact` has no operation that may vary.
    """
    exact = speed == "exact"
    # cuBLAS reads this when it is first used; a deterministic one needs it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(exact, warn_only=True)
    torch.backends.cudnn.benchmark = not exact and steps >= AUTOTUNED_STEPS


def choose_update(update: Update, run: "Run", images: Tensor, labels: Tensor) -> Update:
    """How to take the steps of a run: `fastest`, with room on a GPU for the first of them."""
    chosen = fastest(update, run, images, labels)
    on_gpu = run.device.type != "cpu" and run.batches.arrays.is_on_device
    return with_room(chosen, run) if on_gpu else chosen


def fastest(update: Update, run: "Run", images: Tensor, labels: Tensor) -> Update:
    """The fastest way to take the steps of a run that `execution.speed` and its loss allow.

    Parameters
    ----------
    update
        One step, executed eagerly.
    run
        What it changes: the network, the loss and the optimiser are as they were when this
        returns. What is used is written into `run.engine`.
    images, labels
        A batch, of the shapes of all batches.
    """
    run.engine["graph"] = False  # whatever the process did that wrote the checkpoint
    if run.execution["speed"] == "exact":
        first, second = (_weights_after(update, run, images, labels) for _ in range(2))
        run.engine["deterministic"] = all(map(torch.equal, first, second))
        return update
    if run.device.type != "cuda":
        return update
    errors = gpu_errors()
    if run.name in errors.eager or errors.blocking:
        log.info("%s: takes its steps without a CUDA graph (after an error)", run.name)
        return update
    if takes_step(run.loss):  # a graph would keep the first one
        log.info("%s: takes its steps without a CUDA graph (its loss takes the step)", run.name)
        return update
    try:
        replay = capture_cuda_graph(update, run, images, labels)
    except torch.AcceleratorError as error:  # the allocator is left in a bad state
        raise errors.after(run.name, error, capturing=True) from error
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        log.info("%s: takes its steps without a CUDA graph (%s)", run.name, reason)
        return update
    run.engine["graph"] = True
    return replay


def with_room(update: Update, run: "Run") -> Update:
    """Where memory runs out in the first step, the dataset leaves the GPU and it is taken again.

    All later ones need no more; batches are the same from the mapped files.
    """

    def first(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        run.update = update
        restore = snapshot(run)
        try:
            return update(images, labels)
        except torch.OutOfMemoryError:
            log.info("%s: memory ran out; the dataset leaves the GPU", run.name)
            run.batches.arrays.map()
            torch.cuda.empty_cache()
        restore()
        run.seed_step(run.step)
        return update(images, labels)

    return first


def capture_cuda_graph(update: Update, run: "Run", images: Tensor, labels: Tensor) -> Update:
    """Record the kernels of a step once, to launch them all at once from then on.

    Raises
    ------
    RuntimeError
        Where the step reads from the GPU or copies to it. That is found by taking the step a few
        times before: a capture that fails would leave torch's allocator in a bad state.
    """
    images, labels = images.clone(), labels.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        warm_up(lambda: update(images, labels), run)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Of this thread alone: another one may be reading the next batch into pinned memory.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = update(images, labels)

    def replay(new_images: Tensor, new_labels: Tensor) -> tuple[Tensor, Tensor]:
        images.copy_(new_images)
        labels.copy_(new_labels)
        graph.replay()
        return outputs  # written over by the next replay

    return replay


def warm_up(step: Callable[[], object], run: "Run") -> None:
    """Take a step some times, so that all it allocates is there; then restore what it changed.

    The last ones must neither wait for the GPU nor copy to it. All tensors of the network and of
    the optimiser stay where they are.
    """
    restore = snapshot(run)
    try:
        step()
        if run.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        with _NoCopiesToDevice():
            for _ in range(WARMUP_STEPS - 1):
                step()
    finally:
        if run.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        restore()


def _weights_after(update: Update, run: "Run", images: Tensor, labels: Tensor) -> list[Tensor]:
    """The network's tensors after one step, which is then taken back."""
    restore = snapshot(run)
    run.seed_step()
    update(images, labels)
    weights = [tensor.clone() for tensor in run.model.state_dict().values()]
    restore()
    return weights


def snapshot(run: "Run") -> Callable[[], None]:
    """A function that restores the state of the network, the loss and the optimiser in place.

    Moments that the optimiser did not have before are 0, as it makes them.
    """
    modules: list[nn.Module] = [run.model, run.loss]
    states = [{k: v.clone() for k, v in module.state_dict().items()} for module in modules]
    moments: dict[Any, dict[str, Tensor]] = {
        parameter: {name: tensor.clone() for name, tensor in state.items()}
        for parameter, state in run.optimizer.state.items()
    }

    def restore() -> None:
        for module, state in zip(modules, states, strict=True):
            module.load_state_dict(state)
        for parameter, state in run.optimizer.state.items():
            for name, tensor in state.items():
                before = moments.get(parameter, {}).get(name)
                tensor.zero_() if before is None else tensor.copy_(before)

    return restore


class _NoCopiesToDevice(TorchDispatchMode):
    """Raises where a tensor is copied to the GPU: a graph would keep the first one."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Called by torch for every operation."""
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        source, target = None, None
        if name == "copy_":
            source, target = args[1], args[0].device
        elif name == "_to_copy" and kwargs.get("device") is not None:
            source, target = args[0], torch.device(kwargs["device"])
        if source is not None and source.device.type == "cpu" and target.type != "cpu":
            raise RuntimeError("the step copies from the CPU to the GPU")
        return func(*args, **kwargs)
