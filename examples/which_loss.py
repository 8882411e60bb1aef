"""Print docs/which_loss.md: what each loss of the catalogue computes, measured.

    .venv/bin/python examples/which_loss.py > docs/which_loss.md

Run it after a change of config/losses.yaml, or with entries of your own added there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from lossbench.common.check_tables import number
from lossbench.losses import build_loss
from lossbench.losses.card import SIZES, Measured, RefusedError, labels_of, measure, probe_voxels

CATALOGUE = Path(__file__).parents[1] / "config" / "losses.yaml"
CLASSES = ("background", "a", "b", "c")
DIMENSIONS = 2
REFERENCE = "dice"
SAME = 1e-4  # relative distance of gradients that are the same up to a factor
LIBRARIES = {
    "MONAI": lambda name, target: target.startswith("monai."),
    "segmentation-models-pytorch": lambda name, target: name.startswith("smp_"),
    "Keras segmentation_models": lambda name, target: name.startswith("keras_"),
    "torch, and adapted from papers": lambda name, target: True,
}
INTRODUCTION = """\
# Which loss do I mean?

Two losses of one name can be different functions, and two names can stand for one. This page is
measured, on batches of two samples with four classes, by the card that `check` makes for every
study; none of it is taken from the libraries' documentation. `.venv/bin/python
examples/which_loss.py > docs/which_loss.md` writes it.

In short, with the libraries' defaults: MONAI's Dice loss is a mean over the samples of a batch,
those of segmentation-models-pytorch and of Keras treat the batch as one image. An absent class
adds a constant in MONAI and Keras, and counts as perfect in segmentation-models-pytorch. Sums of
Dice and cross-entropy have gradients about five times as large as Dice alone, sums of Dice and
focal loss twice as large.

- **term of a class**: the formula that fits the loss, and its smoothing in voxels: a class of
  that many voxels, missed altogether, keeps half of its term.
- **over**: a mean of samples, of the batch as one image, or of voxels.
- **background**: whether its probabilities have a term of their own.
- **absent class**: what the term of a class without a voxel in the batch does. "adds a constant":
  the loss cannot reach 0 there and next to nothing is learned from it.
- **scale**: the norm of the gradient over that of `dice`. Plain SGD feels it as another learning
  rate.
- **same as**: an entry above with the same gradient on this batch, in which every class is
  present, up to the factor given. Where the columns before differ, batches exist on which the two
  are not the same.
- nnU-Net's default loss is nearest to `dice_ce_no_background`, with `batch: true` where its plan
  has `batch_dice`.

"""
COLUMNS = ("loss", "term of a class", "over", "background", "absent class", "scale", "same as")


def main() -> None:
    catalogue = yaml.safe_load(CATALOGUE.read_text())["losses"]
    print(INTRODUCTION, end="")
    rows = table(catalogue)
    for library, belongs in LIBRARIES.items():
        chosen = [n for n in rows if belongs(n, catalogue[n]["_target_"])]
        print(f"## {library}\n")
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        for name in chosen:
            print(rows.pop(name))
        print()
    print("`-`: the loss cannot be called on this batch, as those for two classes only.")


def table(catalogue: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """A row of the table for each entry of a catalogue, by its name."""
    voxels = probe_voxels(len(CLASSES), DIMENSIONS)
    labels = labels_of(len(CLASSES), SIZES[DIMENSIONS])
    reference = build_loss({"name": REFERENCE, **catalogue[REFERENCE]}, voxels, CLASSES)
    gradients: dict[str, torch.Tensor] = {}
    rows = {}
    for name, spec in catalogue.items():
        loss = build_loss({"name": name, **spec}, voxels, CLASSES)
        card = measure(loss, reference, len(CLASSES), DIMENSIONS)
        same = ""
        try:
            measured = Measured(loss, labels, len(CLASSES))
            gradient = measured.gradient(measured.probe).double().flatten()
            same = next((text for o, g in gradients.items() if (text := _same(gradient, g, o))), "")
            gradients[name] = gradient
        except RefusedError:
            pass
        term = str(card["form"])
        if isinstance(card["smoothing"], float):
            squared = ", squared" if card["denominator"] == "squared" else ""
            term += f"{squared}, smoothing {number(card['smoothing'])}"
        properties = (
            *(term, card["pooling"], card["background_value"], card["absent_class"]),
            *(number(card["scale"]), same),
        )
        cells = [f"`{name}`", *("-" if text == "unknown" else str(text) for text in properties)]
        rows[name] = f"| {' | '.join(cells)} |"
    return rows


def _same(gradient: torch.Tensor, other: torch.Tensor, name: str) -> str:
    """The name of another loss, with a factor, where the gradients point the same way."""
    factor = float(gradient.norm() / other.norm())
    if (gradient - factor * other).norm() > SAME * gradient.norm():
        return ""
    return f"`{name}`" if abs(factor - 1) < SAME else f"{factor:.3g} x `{name}`"


if __name__ == "__main__":
    main()
