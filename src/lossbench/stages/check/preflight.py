"""The losses of an experiment on its own data and model: gradients at the start and a bit later.

Two losses whose gradients point the same way are the same function up to scale, and scale is a
change of the learning rate: worth knowing before the cluster is busy for hours.
"""

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations, product
from typing import Any

from torch import Tensor, nn

from lossbench.common.device import pick_device
from lossbench.common.provenance import seed_of
from lossbench.config import MATCHED, Experiment
from lossbench.datasets.batches import Batches
from lossbench.datasets.normalisation import IMAGENET
from lossbench.datasets.prepared import Prepared
from lossbench.losses import batch_loss, batch_loss_of_copies, make_target, match_scale, run_loss
from lossbench.losses.gradients import gradient_snapshot
from lossbench.models import (
    Logits,
    build_model,
    logits_of,
    make_optimizer,
    seed_everything,
    to_device,
)

STEPS = 20  # plain training with the reference between the two snapshots
SECONDS = 30.0  # for these steps, all datasets and models together
SAME = 0.99  # cosine from which two losses are about the same function up to scale
EQUAL = 0.02  # ratio of norms that is no difference


def preflight(settings: Experiment, datasets: Sequence[Prepared]) -> list[dict[str, Any]]:
    """Compare the losses' gradients for each dataset and model, on the first fold and seed.

    All losses get the batches of the reference. The steps are fewer where they take long.

    Returns
    -------
    list of dict
        dataset, model, classes, sentences, reference and snapshots: for each its step, cosines
        (loss -> loss -> number) and losses (name -> value, gradient_norm, scale, and the shares
        per class share_value, share_l1, share_l2). None where there is no number.
    """
    pairs, reference = list(product(datasets, settings.matrix.model)), settings.comparison.reference
    found = []
    for data, model in pairs:
        probe = GradientProbe(settings, data, model)
        snapshots = [probe.snapshot()]
        end = time.monotonic() + SECONDS / len(pairs)
        while probe.step < STEPS and time.monotonic() < end:
            probe.update(reference)
        if probe.step:
            snapshots.append(probe.snapshot())
        sentences = _sentences(snapshots, reference, probe.trainings)
        sentences += _other_normalisation(probe.spec["model"], data)
        keys = {"dataset": data.info["name"], "model": model, "classes": data.classes}
        found.append(
            keys | {"reference": reference, "snapshots": snapshots, "sentences": sentences}
        )
    return found


class GradientProbe:
    """A network that the reference trains for some steps, and the losses' gradients on the way."""

    def __init__(self, settings: Experiment, data: Prepared, model: str) -> None:
        matrix = settings.matrix
        fold, seed = matrix.fold[0], matrix.seed[0]
        keys = {"dataset": data.info["name"], "model": model, "fold": fold, "seed": seed}
        runs = {loss: settings.run(loss=loss, **keys) for loss in matrix.loss}
        self.trainings = {name: run["training"] for name, run in runs.items()}
        self.reference = settings.comparison.reference
        self.spec = runs[self.reference]
        training = self.spec["training"]
        self.device = pick_device(wait=False)  # a study may be training on it
        self.losses = {name: run_loss(run, data).to(self.device) for name, run in runs.items()}
        self.model = to_device(
            build_model(self.spec["model"], data, fold, seed), self.device
        ).train()
        self.batches = Batches(data, fold, seed, training, self.device)
        self.probe = self.batches(0)
        self.step, self.classes = 0, (len(data.classes), data.regions)
        for name, loss in self.losses.items():
            match_scale(name, loss, partial(self._value, loss), self.model.parameters())
        self.optimizer = make_optimizer([*self.model.parameters()], training)

    def _value(self, loss: nn.Module) -> Tensor:
        return batch_loss(loss, self._logits(0), self.probe.labels)

    def snapshot(self) -> dict[str, Any]:
        """Gradients of all losses on the probe, with the weights of now."""
        logits, labels = self._logits(0), self.probe.labels
        losses = {
            name: batch_loss_of_copies(loss, labels, self.step, self.trainings[name]["steps"])
            for name, loss in self.losses.items()
        }
        found = gradient_snapshot(
            losses,
            logits,
            make_target(labels, *self.classes),
            self.model.parameters(),
            self.reference,
            split=losses,
        )
        rows = {
            name: {
                "value": _figure(found.values[name]),
                **{f"share_{kind}": [*map(_figure, x)] for kind, x in found.shares[name].items()},
                "gradient_norm": _figure(found.norms[name]),
                "scale": _figure(found.scales[name]),
            }
            for name in losses
        }
        table = {
            name: {other: _figure(cosine) for other, cosine in row.items()}
            for name, row in found.cosines.items()
        }
        return {"step": self.step, "cosines": table, "losses": rows}

    def update(self, loss: str) -> None:
        """Take a step with a loss."""
        self.step += 1  # batch 0 is the probe
        logits, labels = self._logits(self.step), self.batches(self.step).labels
        self.optimizer.zero_grad()
        steps = self.trainings[loss]["steps"]
        batch_loss(self.losses[loss], logits, labels, self.step - 1, steps).backward()
        self.optimizer.step()

    def _logits(self, step: int) -> Logits:
        batch = self.batches(step) if step else self.probe
        seed_everything(seed_of("step", self.spec["seed"], step), self.device)
        return logits_of(self.model, batch.images)


def _figure(value: float) -> float | None:
    """Four significant digits; None for what is not finite, which JSON cannot hold."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _sentences(snapshots: list[dict], reference: str, trainings: Mapping[str, dict]) -> list[str]:
    """A sentence for each two losses that are about the same up to scale; the last snapshot counts.

    None of those that the scale control adds: they are others times a number.
    """
    last = snapshots[-1]
    controls = {name + MATCHED for name in last["losses"]}
    others = [name for name in last["losses"] if name not in {reference, *controls}]
    found = []
    for a, b in combinations([reference, *others], 2):
        cosine = last["cosines"][a][b]
        if cosine is not None and cosine >= SAME:
            found.append(_sentence(a, b, snapshots, trainings))
    return found


def _other_normalisation(model: Mapping[str, Any], data: Prepared) -> list[str]:
    """That images are not normalised as those that an encoder was pretrained on."""
    given = data.info.get("normalisation")
    if not model.get("encoder_weights") or given == IMAGENET or data.info["channels"] != 3:
        return []
    return [
        f"models.{model['name']} has a pretrained encoder; most of these saw colours normalised by "
        f"ImageNet's mean and standard deviation, and datasets.{data.info['name']} is normalised "
        f"otherwise ({given if isinstance(given, str) else 'by numbers'}): normalisation: imagenet "
        "would be theirs."
    ]


def _sentence(a: str, b: str, snapshots: list[dict], trainings: Mapping[str, dict]) -> str:
    """Such as: "b is about 1.41 times a (cosine 0.998 after 20 steps, 0.18 at the start)"."""
    cosine = [snapshot["cosines"][a][b] for snapshot in snapshots]
    step = snapshots[-1]["step"]
    when = f"{cosine[-1]:.3f} after {step} steps" if step else f"{cosine[-1]:.3f} at the start"
    if len(snapshots) > 1 and cosine[0] is not None:
        when += f", {cosine[0]:.3f} at the start"
    norms = [snapshots[-1]["losses"][name]["gradient_norm"] for name in (a, b)]
    ratio = norms[1] / norms[0]
    apart = "" if trainings[a] == trainings[b] else "; their training settings differ"
    if abs(ratio - 1) < EQUAL:
        return f"{b} and {a} are about the same function (cosine {when}){apart}."
    if apart:
        return f"{b} is about {ratio:.3g} times {a} (cosine {when}){apart}."
    training, rate = trainings[a], trainings[a]["learning_rate"]
    effect = (
        "AdamW divides gradients by their size, so the two train alike"
        if training["optimizer"] == "adamw"
        else f"with SGD it trains as {a} with a learning rate of {rate * ratio:.3g} instead of "
        f"{rate:.3g}; compare them at learning rates that make up for it"
    )
    return f"{b} is about {ratio:.3g} times {a} (cosine {when}): {effect}."
