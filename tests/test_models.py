"""Predictions of whole cases."""

import numpy as np
import pytest
import torch
from torch import nn

from lossbench import predictions
from lossbench.common import progress
from lossbench.predictions import predict


class Threshold(nn.Module):
    """Class by the intensity of the voxel alone, so that windows and padding must not matter."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def forward(self, x):
        self.shapes.add(tuple(x.shape[2:]))
        return torch.cat([-x, x, 4 * (x - 1)], dim=1)


def expected(image):
    return np.stack([-image, image, 4 * (image - 1)]).argmax(axis=0)


@pytest.mark.parametrize("patch", [[32, 32], [64, 64], [16, 48]])
def test_any_case_is_predicted_whole_and_the_model_sees_the_patch_alone(phantom, patch):
    model = Threshold()
    rows = phantom.validation(0)[::-1]
    for row, found in zip(rows, predict(model, phantom, rows, patch), strict=True):
        assert found.dtype == np.uint8
        assert np.array_equal(found, expected(phantom.image(row)[0]))
    assert model.shapes == {tuple(patch)}


def test_predictions_that_take_long_say_how_far_they_are(phantom, monkeypatch):
    """As they are made, group by group of cases of one size, and not when all are there."""

    class Asking(Threshold):
        def forward(self, x):
            said.append(progress._positions[-1]().partition(",")[0])
            return super().forward(x)

    said: list[str] = []
    monkeypatch.setattr(predictions, "VOXELS_PER_BATCH_CPU", 32 * 32)
    rows = phantom.validation(0)
    predict(Asking(), phantom, rows, [32, 32], what="dice: validated")
    assert list(dict.fromkeys(said)) == [
        f"dice: validated {n} of {len(rows)} cases" for n in range(len(rows))
    ]


def test_windows_of_a_case_go_through_the_network_together(phantom, monkeypatch):
    class Counting(Threshold):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    sizes: list[int] = []
    monkeypatch.setattr(predictions, "VOXELS_PER_BATCH_CPU", 3 * 16 * 16)
    row = phantom.validation(0)[0]
    (found,) = predict(Counting(), phantom, [row], [16, 16])
    assert np.array_equal(found, expected(phantom.image(row)[0]))
    assert set(sizes[:-1]) == {3}


@pytest.mark.parametrize("patch", [[32, 32], [64, 96], [150, 45]])
def test_without_a_background_cases_are_mirrored_to_the_patch(no_background, patch):
    """In prediction as in training, and cut off again."""
    model = Threshold()
    rows = no_background.validation(0)
    for row, found in zip(rows, predict(model, no_background, rows, patch), strict=True):
        assert np.array_equal(found, expected(no_background.image(row)[0]))
    assert model.shapes == {tuple(patch)}

    class HasZeros(Threshold):
        def forward(self, x):
            seen.append((x == 0).any().item())
            return super().forward(x)

    seen: list[bool] = []
    predict(HasZeros(), no_background, rows[:1], [64, 96])
    assert seen == [False], "padded by zeros"


def test_3d(phantom_3d):
    rows = phantom_3d.validation(1)
    found = predict(Threshold(), phantom_3d, rows, [16, 16, 16])
    assert np.array_equal(found[0], expected(phantom_3d.image(rows[0])[0]))


def test_the_mode_of_the_model_is_put_back(phantom):
    class Mode(Threshold):
        def forward(self, x):
            assert not self.training
            return super().forward(x)

    model = Mode().train()
    predict(model, phantom, [0], [64, 64])
    assert model.training
