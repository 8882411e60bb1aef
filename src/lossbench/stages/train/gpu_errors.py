"""Errors of a GPU that end the process: every later call fails, also those of the other losses.

The training goes on in a fresh process, from the checkpoints. What went wrong is in an environment
variable, since only the environment comes along. CUDA tells of errors late, in the call of another
loss, say: so the first of them is repeated with blocking launches, where it is told at once, and
then its loss is left out.
"""

import json
import os
from dataclasses import asdict, dataclass, field

from lossbench.config import FreshProcessError

VARIABLE = "LOSSBENCH_GPU_ERRORS"


@dataclass
class GpuErrors:
    """What the processes before this one met.

    Attributes
    ----------
    failed
        Losses to leave out, with what went wrong.
    eager
        Losses to train without a CUDA graph.
    blocking
        Whether this process is to find out whose error it was.
    plain
        Whether networks are not to be compiled.
    """

    failed: dict[str, str] = field(default_factory=dict)
    eager: list[str] = field(default_factory=list)
    blocking: bool = False
    plain: bool = False

    def after(
        self, name: str, error: Exception, capturing: bool = False, compiling: bool = False
    ) -> FreshProcessError:
        """The error that asks for a fresh process, after one in a step of a loss."""
        reason = str(error).strip().partition("\n")[0]
        text = f"losses.{name}: {reason}"
        found = GpuErrors(dict(self.failed), list(self.eager), plain=self.plain or compiling)
        if capturing:
            found.eager.append(name)
            text += " (while a CUDA graph was made; the loss takes its steps without one)"
        elif compiling:
            text += " (while the network was compiled; it stays as it is)"
        elif self.blocking:
            found.failed[name] = f"losses.{name}: the GPU stopped: {reason}"
            text += " (the loss is left out)"
        else:
            found.blocking = True
            text += " (or of another loss: the next error will tell)"
        # An empty value is no 0 for CUDA.
        blocking = {"CUDA_LAUNCH_BLOCKING": str(int(found.blocking))}
        return FreshProcessError(text, {VARIABLE: json.dumps(asdict(found)), **blocking})


def gpu_errors() -> GpuErrors:
    """What the processes before this one met; nothing in the first one."""
    return GpuErrors(**json.loads(os.environ.get(VARIABLE, "{}")))
