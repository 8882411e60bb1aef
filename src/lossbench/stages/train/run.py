"""One training: a network, its loss and its optimiser at a step, and what is kept of it."""

import csv
import io
import logging
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lossbench.common.device import Stopwatch, device_name, peak_memory
from lossbench.common.files import checksums, whole, write_json, write_text
from lossbench.common.provenance import commit, seed_of, state_digest, versions
from lossbench.config import canonical
from lossbench.datasets.batches import Batches, patch_size
from lossbench.datasets.prepared import Prepared
from lossbench.losses import batch_loss, match_scale, run_loss, scale_of
from lossbench.metrics import counts_of_case, dice_of
from lossbench.models import (
    Logits,
    build_model,
    changed_input,
    logits_of,
    make_optimizer,
    precision_used,
    preserve_buffers,
    seed_everything,
    to_device,
)
from lossbench.predictions import predict
from lossbench.stages.train.cuda_graph import Update
from lossbench.stages.train.finished_runs import FILES
from lossbench.stages.train.ledger import Ledger

log = logging.getLogger(__name__)
PROGRESS_SECONDS = 2.0  # between two writings of progress.csv
# What a checkpoint holds besides the network, its loss and its optimiser.
STATE = ("step", "seconds", "started", "history", "batch_digest", "sums", "logged_step", "engine")


class Run:
    """One training: a network, its loss and its optimiser, at a step.

    Parameters
    ----------
    spec
        run.json: what to train.
    execution
        The section `execution` of the experiment: how often to log, to validate and to look.
    folder
        Its place in the store; a checkpoint there is resumed.
    data
        The prepared dataset.
    batches
        The stream of batches, shared by the runs of the block with the same batch settings.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        execution: dict[str, Any],
        folder: Path,
        data: Prepared,
        batches: Batches,
    ) -> None:
        self.spec, self.execution, self.folder, self.data = spec, execution, folder, data
        self.training, self.steps = spec["training"], spec["training"]["steps"]
        self.name, self.batches, self.device = spec["loss"]["name"], batches, batches.device
        self.patch = patch_size(data, self.training)
        self.validation = data.validation(spec["fold"])
        self.step, self.seconds, self.status, self.started = 0, 0.0, "training", _now()
        self.history: list[dict[str, float]] = []
        self.stopwatch = Stopwatch(self.device)
        self.batches_seconds = batches.seconds()  # when they were last shared out
        # Loss and gradient norm, summed on the device since the last row of the history.
        self.sums, self.logged_step = torch.zeros(2, device=self.device), 0
        self.batch_digest = torch.zeros((), dtype=torch.int64, device=self.device)

        self._make_network()
        self.precision = precision_used(self.training, self.device)
        self.engine = {"precision": self.precision, "graph": False, "compiled": False}
        if self.device.type == "cuda":  # what a convolution in float32 is computed in
            self.engine["tf32"] = torch.backends.cudnn.allow_tf32
        self.update: Update | None = None  # how a step is executed, chosen with the first batch
        self.ledger = Ledger(self) if execution["ledger"] else None
        self.factor = self._match_scale()

        if not self._resume() and self.ledger:
            self.history.append({"step": 0, "seconds": 0.0, **self.ledger.row(self)})
        self.finite_weights = [tensor.clone() for tensor in self._weights()]
        self.shown = self.saved = time.monotonic()

    def _make_network(self) -> None:
        """The network with its initial weights, its loss, and the optimiser of both."""
        model = build_model(self.spec["model"], self.data, self.spec["fold"], self.spec["seed"])
        self.init_digest = state_digest(model.state_dict())
        self.model = to_device(model, self.device).train()
        self.forward: nn.Module = self.model  # in the steps, where it may be compiled
        self.loss = run_loss(self.spec, self.data).to(self.device)
        self.parameters = [*self.model.parameters(), *self.loss.parameters()]
        self.optimizer = make_optimizer(self.parameters, self.training)

    def _match_scale(self) -> float | None:
        """Give a `Scaled` its factor, which is returned; None for other losses."""
        scaled = scale_of(self.loss)
        if scaled is None:
            return None
        first = self.batches(0)

        def value() -> Tensor:
            self.seed_step()
            return batch_loss(self.loss, self.predict(first.images), first.labels, 0, self.steps)

        with preserve_buffers(self.model):
            match_scale(self.name, self.loss, value, self.model.parameters())
        return scaled.factor

    def seed_step(self, step: int = 0) -> None:
        """Seed the random numbers that a step draws: the same for all losses of the block."""
        seed_everything(seed_of("step", self.spec["seed"], step), self.device)

    def predict(self, images: Tensor, model: nn.Module | None = None) -> Logits:
        """Logits in float32: losses run outside autocast. Of the network, or its compiled form."""
        enabled, version = self.precision == "bf16", images._version
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            logits = logits_of(self.model if model is None else model, images)
        if images._version != version:  # torch counts the changes in place
            raise changed_input(self.spec["model"])
        return logits

    def is_due(self, key: str) -> bool:
        """Whether the step that was just taken is one to log, to validate or to look at."""
        if key == "ledger_every":
            every = self.ledger and self.execution["ledger"]["every"]
        else:
            every = self.execution[key]
        return bool(every) and (self.step % every == 0 or self.step == self.steps)

    def log(self, learning_rate: float) -> dict[str, float]:
        """Add a row to the history: the one read from the device since the last one.

        Where a value is not finite the run has diverged: it gets its last finite weights back.
        """
        weights = self._weights()
        finite = torch.stack(torch._foreach_norm(weights)).sum()
        means = self.sums / (self.step - self.logged_step)
        loss, norm, size = torch.cat([means, finite[None]]).tolist()
        self.sums.zero_()
        self.logged_step = self.step
        self._count_seconds()
        row = {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "train/loss": loss,
            "train/gradient_norm": norm,
            "train/learning_rate": learning_rate,
        }
        self.history.append(row)
        with torch.no_grad():
            if math.isfinite(loss) and math.isfinite(size):
                torch._foreach_copy_(self.finite_weights, weights)
            else:
                log.warning("%s: diverged by step %d (loss %s)", self.name, self.step, loss)
                self.status = "diverged"
                torch._foreach_copy_(weights, self.finite_weights)
        return row

    def _count_seconds(self) -> None:
        """Add the time of the steps since the last call, and a share of that of their batches."""
        batches_seconds = self.batches.seconds()
        shared = (batches_seconds - self.batches_seconds) / self.batches.users
        self.seconds += self.stopwatch.lap() + shared
        self.batches_seconds = batches_seconds

    def _weights(self) -> list[Tensor]:
        """Parameters and floating-point buffers of the network, each once."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return [tensor.detach() for tensor in tensors if tensor.is_floating_point()]

    def validate(self) -> dict[str, float]:
        """Mean Dice of each class on the validation cases; a split may have none."""
        if not len(self.validation):
            return {}
        what = f"{self.name}: validated"
        predictions = predict(self.model, self.data, self.validation, self.patch, self.device, what)
        cases = [
            counts_of_case(prediction, row, self.data)
            for prediction, row in zip(predictions, self.validation, strict=True)
        ]
        dice = dict(zip(self.data.classes, dice_of(cases).tolist(), strict=True))
        log.info(
            "%s: step %d of %d, loss %.4f, validation Dice %s",
            *(self.name, self.step, self.steps, self.history[-1]["train/loss"]),
            ", ".join(f"{name} {value:.3f}" for name, value in dice.items()),
        )
        return {f"val/dice/{name}": value for name, value in dice.items()}

    def write_progress(self) -> None:
        """Leave the history so far for `track --follow`."""
        if time.monotonic() - self.shown > PROGRESS_SECONDS:
            # With the time of the start, since a follower has no status.json yet.
            rows = [{"started": self.started, **row} for row in self.history]
            write_text(self.folder / "progress.csv", _csv(rows))
            self.shown = time.monotonic()

    def seconds_since_checkpoint(self) -> float:
        """Seconds since the last checkpoint, or since the start."""
        return time.monotonic() - self.saved

    def checkpoint(self) -> None:
        """Write all that the training needs to resume from this step."""
        self._count_seconds()
        state = {name: getattr(self, name) for name in STATE}
        state |= {"model": self.model.state_dict(), "loss": self.loss.state_dict()}
        # Without its groups: settings and learning rate are those of the run.
        state["optimizer"] = self.optimizer.state_dict()["state"]
        with whole(self.folder / "checkpoint.pt") as part:
            torch.save(state, part)
        self.saved = time.monotonic()

    def _resume(self) -> bool:
        """Take everything from the checkpoint, where there is one that can be read."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return False
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            moments = self.optimizer.state_dict() | {"state": state["optimizer"]}
            self.model.load_state_dict(state["model"])
            self.loss.load_state_dict(state["loss"])
            self.optimizer.load_state_dict(moments)
            values = {name: state[name] for name in STATE}
        except Exception as error:
            log.warning("%s cannot be read (%s); %s starts again", path, error, self.name)
            self._make_network()
            return False
        for name, value in values.items():
            setattr(self, name, value)
        log.info("%s: resumes from step %d", self.name, self.step)
        return True

    def finish(self) -> None:
        """Write the run into the store, status last, and drop its checkpoint."""
        self.status = "finished" if self.status == "training" else self.status
        write_text(self.folder / "run.json", canonical(self.spec) + "\n")
        # Copies, since safetensors takes no two names of the same memory, and networks have them.
        weights = {
            name: tensor.to("cpu", copy=True).contiguous()
            for name, tensor in self.model.state_dict().items()
        }
        with whole(self.folder / "model.safetensors") as part:
            save_file(weights, part)
        write_text(self.folder / "history.csv", _csv(self.history))
        sums = checksums(self.folder, [file for file in FILES if file != "status.json"])
        write_json(self.folder / "status.json", self._status() | {"sha256": sums})
        for rest in {*self.folder.iterdir()} - {self.folder / file for file in FILES}:
            rest.unlink()  # the checkpoint, and parts of files of a process that was killed

    def _status(self) -> dict[str, Any]:
        return {
            "digest": self.folder.name,
            "data_digest": self.data.digest,
            "status": self.status,
            "steps": self.step,
            "train_seconds": round(self.seconds, 3),
            "images_per_second": round(self.step * self.training["batch_size"] / self.seconds, 3),
            "peak_memory_bytes": peak_memory(self.device),
            "loss_factor": self.factor,
            "init_digest": self.init_digest,
            "batch_digest": f"{self.batch_digest.item() & (2**64 - 1):016x}",
            "commit": commit(),
            "versions": versions(),
            "device": device_name(self.device),
            "engine": self.engine,
            "started": self.started,
            "finished": _now(),
        }


def _csv(rows: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
