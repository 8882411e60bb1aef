"""One training: a network, its loss and its optimiser, step by step."""

import csv
import io
import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from lossbench.common.device import device_name, memory_size, peak_memory, pick_device
from lossbench.common.files import checksums, whole, write_json, write_text
from lossbench.common.provenance import commit, seed_of, state_digest, versions
from lossbench.config import UserError, canonical
from lossbench.datasets.batches import FNV_PRIME, Batches, patch_size, stream_key
from lossbench.datasets.prepared import Prepared
from lossbench.losses import batch_loss, match_scale, run_loss, scale_of
from lossbench.losses.ledger import ledger_entry, unmoved
from lossbench.metrics import counts, dice_of
from lossbench.models import build_model, predict
from lossbench.stages.train.engine import (
    captured,
    compiled,
    is_captured,
    make_optimizer,
    not_compiled,
    on_stream,
    own_stream,
    place,
    seed_generators,
    set_rate,
)
from lossbench.stages.train.stop import Stop
from lossbench.stages.train.store import FILES

log = logging.getLogger(__name__)
PROGRESS_SECONDS = 2.0  # between two writings of progress.csv
# Between two checkpoints, at most, where rows of the history come often enough: what a job loses
# that is killed without a word.
CHECKPOINT_SECONDS = 60.0
# A network on images.
Call = Callable[[nn.Module, Tensor], Tensor]
# What a checkpoint holds besides the network and its optimiser.
STATE = ("step", "seconds", "started", "history", "batch_digest", "sums", "since")


class Run:
    """One training: a network, its loss and its optimiser, at a step.

    Parameters
    ----------
    spec
        run.json: what to train.
    folder
        Its place in the store.
    data
        The prepared dataset.
    """

    def __init__(self, spec: dict[str, Any], folder: Path, data: Prepared) -> None:
        self.spec, self.folder, self.data = spec, folder, data
        self.training, self.steps = spec["training"], spec["training"]["steps"]
        self.name = spec["loss"]["name"]
        self.device = pick_device()
        self.patch = patch_size(data, self.training)
        self.validation = data.validation(spec["fold"])
        self.step, self.seconds, self.status = 0, 0.0, "training"
        # Loss and gradient norm, summed on the device since the last row of the history.
        self.sums, self.since = torch.zeros(2), 0
        self.history: list[dict[str, float]] = []
        self.batch_digest = torch.zeros((), dtype=torch.int64)
        self.started = _now()
        self.shown = self.saved = time.monotonic()

    def start(self, streams: dict[str, Batches]) -> None:
        """Make or resume the network; take the stream of batches that others have, or a new one."""
        fold, seed = self.spec["fold"], self.spec["seed"]
        self.loss = run_loss(self.spec, self.data).to(self.device)
        model = build_model(self.spec["model"], self.data, seed)
        self.init_digest = state_digest(model.state_dict())
        self.model = place(model, self.device, self.training)
        self.optimizer = make_optimizer(self.model, self.training)
        # None where it has yet to be captured, with the first batch.
        self.take = None if is_captured(self.device, self.training) else self._take
        self.cuda_stream = own_stream(self.device, self.training)
        key = stream_key(self.training)
        if key not in streams:
            streams[key] = Batches(self.data, fold, seed, self.training, self.device)
        self.batches = streams[key]
        self.factor = self._match_scale()
        self._start_ledger()
        self._resume()
        self.batch_digest, self.sums = (t.to(self.device) for t in (self.batch_digest, self.sums))
        self.last_finite = self._state()

    def _match_scale(self) -> float | None:
        """Give a `Scaled` its factor, which is returned; None for other losses."""
        scaled = scale_of(self.loss)
        if scaled is None:
            return None
        first = self.batches(0)

        def value() -> Tensor:
            seed_generators(seed_of("step", self.spec["seed"], 0), self.device)
            return batch_loss(self.loss, self._predict(first.images), first.labels)

        with unmoved(self.model):
            match_scale(self.name, self.loss, value, self.model.parameters())
        return scaled.factor

    def _start_ledger(self) -> None:
        if settings := self.training["ledger"]:
            other = run_loss({**self.spec, "loss": settings["reference"]}, self.data)
            self.ledger_reference = other.to(self.device)
            # Half of it, for speed; normalisation over a batch wants two images.
            self.probe = self.batches(0).first(max(2, self.training["batch_size"] // 2))
            self.history.append({"step": 0, "seconds": 0.0, **self._ledger()})

    def ends(self) -> set[int]:
        """Steps at which an interval ends: to log, to validate, to look, or at the end."""
        every = [self.training["log_every"], self.training["validate_every"]]
        every += [self.training["ledger"]["every"]] if self.training["ledger"] else []
        return {self.steps, *(s for n in every for s in range(n, self.steps, n))}

    def goes_to(self, end: int) -> bool:
        """Whether there are steps to take before the end of an interval."""
        return self.status == "training" and self.step < min(end, self.steps)

    def advance(self, end: int, stop: Stop) -> None:
        """Take the steps up to an end; a GPU may still be at work on them when this returns."""
        while self.step < end and not stop.signal:
            self._update(self.step)
            self.step += 1

    def settle(self, end: int, seconds: float) -> None:
        """After steps that took so many seconds: log and validate, where the end was reached."""
        self.seconds += seconds
        if self.step == end:
            # The one read of the interval.
            loss, norm = (self.sums / (end - self.since)).tolist()
            self.sums, self.since = torch.zeros_like(self.sums), end
            self._record(loss, norm)

    def _update(self, step: int) -> None:
        """Take one step; nothing is read from the device."""
        batch = self.batches(step)
        with on_stream(self.cuda_stream):
            set_rate(self.optimizer, learning_rate(self.training, step))
            try:
                if self.take is None:
                    self.take = captured(
                        self._take, self.model, self.optimizer, batch.images, batch.labels
                    )
                # A network or loss that draws random numbers draws the same in every run of the
                # block.
                seed_generators(seed_of("step", self.spec["seed"], step), self.device)
                loss, norm = self.take(batch.images, batch.labels)
            except RuntimeError as error:
                raise self._explained(error) from error
            self.sums = self.sums + torch.stack([loss, norm])
            self.batch_digest = self.batch_digest * FNV_PRIME + batch.mark

    def _take(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step on a batch: its loss and gradient norm, scalars on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        call = compiled() if self.training["compile"] else nn.Module.__call__
        loss = batch_loss(self.loss, self._predict(images, call), labels)
        loss.backward()
        if limit := self.training["clip_norm"]:
            norm = clip_grad_norm_(self.model.parameters(), limit)
        else:  # a limit of infinity would multiply all gradients by 1
            norm = get_total_norm(p.grad for p in self.model.parameters() if p.grad is not None)
        self.optimizer.step()
        return loss.detach(), norm

    def _explained(self, error: RuntimeError) -> Exception:
        """What to do where memory, compiling or a graph failed; other errors as they are."""
        reason = str(error).strip().partition("\n")[0]
        if self.training["compile"] and not_compiled(error):
            return UserError(f"training.compile: {reason}; set it to false, or mend that")
        if self.take is None and "captur" in reason:
            return UserError(
                f"training.cuda_graph: {reason}; the loss or the network reads from the GPU, or "
                "copies to it, within a step: set it to false, under "
                f"losses.{self.name}.training for this loss alone"
            )
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            return error
        peak, size = (n(self.device) / 1e9 for n in (peak_memory, memory_size))
        return UserError(
            f"out of memory at step {self.step}, with {peak:.1f} GB at the peak of the {size:.1f} "
            f"GB of {device_name(self.device)}; training.batch_size is "
            f"{self.training['batch_size']} and training.patch_size {list(self.patch)}: lower one"
        )

    def _predict(self, images: Tensor, call: Call = nn.Module.__call__) -> Tensor:
        """Logits in float32: losses run outside autocast."""
        amp = self.training["amp"] and self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=amp):
            return call(self.model, images).float()

    def _ledger(self) -> dict[str, float]:
        seed_generators(seed_of("step", self.spec["seed"], 0), self.device)
        losses = (self.loss, self.ledger_reference)
        return ledger_entry(self.model, self._predict, losses, self.probe, self.data.classes)

    def _record(self, loss: float, norm: float) -> None:
        row = {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "train/loss": loss,
            "train/gradient_norm": norm,
            "train/learning_rate": learning_rate(self.training, self.step - 1),
        }
        self.history.append(row)
        state = self._state()
        finite = torch.stack([tensor.isfinite().all() for tensor in state.values()]).all()
        if not (math.isfinite(loss) and finite):
            log.warning("%s: diverged by step %d (loss %s)", self.name, self.step, loss)
            self.status = "diverged"
            self.model.load_state_dict(self.last_finite)
            return
        self.last_finite = state
        ledger = self.training["ledger"]
        if ledger and self._due(ledger["every"]):
            row |= self._ledger()
        if self._due(self.training["validate_every"]):
            row |= self._validate()
            self.checkpoint()
        elif time.monotonic() - self.saved > CHECKPOINT_SECONDS:
            self.checkpoint()
        self._show()

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.steps

    def _show(self) -> None:
        """Leave the history so far for those who follow the training."""
        if time.monotonic() - self.shown > PROGRESS_SECONDS:
            # With the time of the start, since a follower has no status.json yet.
            rows = [{"started": self.started, **row} for row in self.history]
            write_text(self.folder / "progress.csv", _csv(rows))
            self.shown = time.monotonic()

    def _validate(self) -> dict[str, float]:
        found = predict(self.model, self.data, self.validation, self.patch, self.device)
        k = len(self.data.classes)
        cases = [
            counts(p, self.data.label(r), k) for p, r in zip(found, self.validation, strict=True)
        ]
        dice = dice_of(cases)
        log.info(
            "%s: step %d of %d, loss %.4f, validation Dice %s",
            *(self.name, self.step, self.steps, self.history[-1]["train/loss"]),
            ", ".join(f"{c} {d:.3f}" for c, d in zip(self.data.classes, dice, strict=True)),
        )
        return {f"val/dice/{c}": float(d) for c, d in zip(self.data.classes, dice, strict=True)}

    def _state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def checkpoint(self) -> None:
        """Write all that the training needs to go on from this step."""
        state = {name: getattr(self, name) for name in STATE}
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        with whole(self.folder / "checkpoint.pt") as part:
            torch.save(state, part)
        self.saved = time.monotonic()

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:
            log.warning("%s cannot be read (%s); %s starts again", path, error, self.name)
            build = build_model(self.spec["model"], self.data, self.spec["seed"])
            self.model.load_state_dict(build.state_dict())
            self.optimizer = make_optimizer(self.model, self.training)
            return
        for name in STATE:
            setattr(self, name, state[name])
        log.info("%s: goes on from step %d", self.name, self.step)

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
            "started": self.started,
            "finished": _now(),
        }


def learning_rate(training: dict[str, Any], step: int) -> float:
    """Polynomial decay: a function of the step alone."""
    return training["learning_rate"] * (1 - step / training["steps"]) ** training["decay_power"]


def _csv(rows: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
