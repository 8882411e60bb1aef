"""Imports of large libraries in less time, which every job pays."""

import atexit
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# Parts of what MONAI imports that no check, no training and no evaluation uses.
UNUSED = ("matplotlib", "mlflow", "sklearn")


@contextmanager
def quick_imports(unused: Sequence[str]) -> Iterator[None]:
    """Imports within take a third less time, which every job pays.

    What they make stays, so nobody looks through it for garbage, until the process ends; and MONAI,
    which imports these libraries where they are there, finds none. Whoever imports them later has
    them.
    """
    if "torch" in sys.modules:  # not a job's process, and nothing to gain
        yield
        return
    hidden = dict.fromkeys(set(unused) - sys.modules.keys())
    sys.modules.update(hidden)  # None is how Python writes that there is no such module
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # libraries complain of what nobody takes apart at the end
        for name in hidden:
            del sys.modules[name]
