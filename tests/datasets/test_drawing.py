import numpy as np
import pytest
from matplotlib.colors import to_rgb

from lossbench.datasets import drawing
from lossbench.datasets.prepared import IGNORE


def test_the_slice_with_most_classes_is_drawn_and_ignored_voxels_do_not_count():
    label = np.zeros((4, 4, 4), np.uint8)
    label[..., 0] = IGNORE
    label[..., 1] = 1
    label[0, :2, 2] = (1, 2)
    assert drawing.best_slice(label, [1, 2]) == 2
    label[0, :2, 2] = 0
    assert drawing.best_slice(label, [1, 2]) == 1
    assert drawing.best_slice(label[..., 0], [1, 2]) is None


def test_the_second_axis_of_a_volume_runs_upwards_and_the_channels_stay():
    volume = np.arange(24).reshape(2, 3, 4)
    picture = drawing.plane(volume, 1)
    assert picture.shape == (3, 2)
    assert picture[-1, 0] == volume[0, 0, 1]
    assert picture[0, 1] == volume[1, 2, 1]
    assert (drawing.plane(volume[None], 1)[0] == picture).all()


def test_classes_are_painted_over_the_image_in_the_colours_of_the_legend():
    image = drawing.displayed(np.array([[[0.0, 1.0, 0.0, 1.0]]]))
    painted = drawing.overlay(image, np.array([[0, 1, 2, IGNORE]]), [1, 2])
    assert (painted[0, 0] == image[0, 0]).all()
    first, second, ignored = drawing.legend_handles(
        ["background", "a", "b"], [1, 2], [1, 2, IGNORE]
    )
    assert [h.get_label() for h in (first, second, ignored)] == ["a", "b", "ignored"]
    for pixel, grey, handle in ((1, 1.0, first), (2, 0.0, second), (3, 1.0, ignored)):
        colour = np.array(to_rgb(handle.get_facecolor()))
        expected = (1 - drawing.OPACITY) * grey + drawing.OPACITY * colour
        assert painted[0, pixel] == pytest.approx(expected, abs=0.01)


def test_thirty_classes_have_thirty_colours():
    colours = drawing.class_colours(range(1, 31))
    assert len({tuple(colour) for colour in colours.values()}) == 30


def test_without_a_background_class_0_is_painted_and_counts_as_foreground():
    image, label = np.full((1, 3, 3), 0.5), np.array([[0, 0, 1]])
    painted = drawing.overlay(image, label, [0, 1])
    assert (painted[0, 0] != image[0, 0]).any()
    sky, road = drawing.legend_handles(["sky", "road"], [0, 1], [0, 1])
    assert (sky.get_label(), road.get_label()) == ("sky", "road")
    assert sky.get_facecolor() != road.get_facecolor()
    volume = np.stack([np.ones((2, 2), int), np.array([[0, 0], [0, 1]])], axis=-1)
    assert drawing.best_slice(volume, [1]) == 0
    assert drawing.best_slice(volume, [0, 1]) == 1


def test_a_picture_of_many_pixels_shows_every_nth():
    image = np.arange(3 * 2100 * 1500).reshape(3, 2100, 1500)
    shown = drawing.plane(image, None)
    assert shown.shape == (3, 700, 500)
    assert (shown == image[:, ::3, ::3]).all()
    assert drawing.plane(image[:, :1024, :1024], None).shape == (3, 1024, 1024)
    assert drawing.plane(np.zeros((1030, 4, 2)), 1).shape == (2, 515)  # both axes alike
