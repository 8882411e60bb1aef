"""The batch is a function of (dataset, fold, seed, step), and of nothing else."""

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.spatial
import scipy.stats
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lossbench.config import Augmentation, Training, UserError
from lossbench.datasets.augment import _draw, _hash, _rotation, augment, counter_noise
from lossbench.datasets.batches import (
    Arrays,
    Batches,
    _fits,
    batch_settings,
    checksum,
    patch_size,
)

CPU = torch.device("cpu")


def settings(**changes):
    return Training(**{"batch_size": 4, "patch_size": [32, 32], **changes}).model_dump()


def test_a_step_gives_the_same_batch_whatever_came_before(phantom):
    one, other = (Batches(phantom, 0, 0, settings(), CPU) for _ in range(2))
    for step in range(5):
        one(step)
    torch.manual_seed(99)  # the global generator has no part in it
    assert torch.equal(one(4).images, other(4).images)
    assert torch.equal(one(4).labels, other(4).labels)
    assert one(4).checksum == other(4).checksum


class Elsewhere(Arrays):
    """As where a dataset does not fit on the GPU."""

    is_on_device = False


def test_streams_of_a_block_share_one_copy_of_the_data(phantom):
    shared = Arrays(phantom, torch.device("meta"))
    assert shared.is_on_device
    streams = [Batches(phantom, 0, 0, settings(), shared.device, shared) for _ in range(2)]
    assert streams[0].arrays.images is streams[1].arrays.images is shared.images
    shared.map()
    assert not shared.is_on_device


@pytest.mark.parametrize(("jobs", "fits"), [("1", True), ("2", False)])
def test_jobs_that_share_a_gpu_share_the_memory_for_their_datasets(
    jobs, fits, phantom, monkeypatch
):
    size = phantom.images.nbytes + phantom.labels.nbytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * size, 100 * size))
    monkeypatch.setenv("LOSSBENCH_JOBS_PER_GPU", jobs)
    assert _fits(phantom, torch.device("cuda", 0)) == fits


def test_batches_that_are_read_ahead_are_the_same(phantom):
    """As where a dataset does not fit on the GPU; whatever step comes next."""
    plain, ahead = (Batches(phantom, 0, 0, settings(), CPU) for _ in range(2))
    ahead.arrays = Elsewhere(phantom, CPU)
    for step in (0, 1, 2, 9, 10, 3, 3):
        assert ahead(step).checksum == plain(step).checksum
        assert list(ahead.prefetched) == [step + 1]


def test_fold_seed_and_step_change_the_batch(phantom):
    marks = {
        Batches(phantom, fold, seed, settings(), CPU)(step).checksum.item()
        for fold in (0, 1)
        for seed in (0, 1)
        for step in (0, 1)
    }
    assert len(marks) == 8


def test_an_epoch_has_every_training_case_once_and_none_of_validation(phantom):
    batches = Batches(phantom, 1, 0, settings(batch_size=1), CPU)
    count = len(phantom.training(1))
    rows = [row for step in range(count) for row in batches._rows(step)]
    assert sorted(rows) == sorted(phantom.training(1))
    assert not set(rows) & set(phantom.validation(1))
    following = [row for step in range(count, 2 * count) for row in batches._rows(step)]
    assert sorted(following) == sorted(rows)
    assert following != rows


def test_batches_longer_than_an_epoch(phantom):
    batch = Batches(phantom, 0, 0, settings(batch_size=50), CPU)(3)
    assert batch.images.shape == (50, 1, 32, 32)


def test_epochs_follow_each_other_whatever_the_size_of_a_batch(phantom):
    batches = Batches(phantom, 1, 0, settings(batch_size=5), CPU)
    count = len(phantom.training(1))
    rows = [row for step in range(count) for row in batches._rows(step)]
    for start in range(0, 5 * count, count):
        assert sorted(rows[start : start + count]) == sorted(phantom.training(1))


def test_a_patch_may_be_any_part_of_its_case(phantom):
    batches = Batches(phantom, 0, 0, settings(patch_size=[16, 24], augmentation=None), CPU)
    starts = []
    for step in range(100):
        for row, image, label in zip(batches._rows(step), *batches(step)[:2], strict=True):
            windows = np.lib.stride_tricks.sliding_window_view(phantom.image(row)[0], (16, 24))
            ((i, j),) = np.argwhere((windows == image[0].numpy()).all((2, 3)))
            assert np.array_equal(phantom.label(row)[i : i + 16, j : j + 24], label)
            starts.append((i, j))
    for start, spare in zip(np.transpose(starts), (48 - 16, 40 - 24), strict=True):
        assert set(start.tolist()) == set(range(spare + 1))


@pytest.mark.parametrize("size", [[16, 24], [96, 80]])
def test_patches_are_cut_out_or_padded(phantom, size):
    batch = Batches(phantom, 0, 0, settings(patch_size=size, augmentation=None), CPU)(0)
    assert batch.images.shape == (4, 1, *size)
    assert batch.labels.shape == (4, *size)
    assert batch.labels.dtype == torch.uint8


def test_without_a_background_small_cases_are_mirrored(no_background):
    """Image and label alike, as numpy's symmetric padding does, also by more than a whole case."""
    batches = Batches(no_background, 0, 0, settings(patch_size=[64, 200], augmentation=None), CPU)
    row = batches._rows(0)[0]
    width = [((wanted - n) // 2, -(-(wanted - n) // 2)) for wanted, n in ((64, 48), (200, 40))]
    batch = batches(0)
    label = np.pad(no_background.label(row), width, mode="symmetric")
    assert np.array_equal(batch.labels[0], label)
    image = np.pad(no_background.image(row), [(0, 0), *width], mode="symmetric")
    assert np.array_equal(batch.images[0], image)


@pytest.mark.parametrize("size", [[64, 64], [65, 63]])
def test_a_small_case_lies_in_the_middle_of_its_patch_image_and_label_alike(phantom, size):
    batches = Batches(phantom, 0, 0, settings(patch_size=size, augmentation=None), CPU)
    row = batches._rows(0)[0]
    width = [((n - m) // 2, -(-(n - m) // 2)) for n, m in zip(size, (48, 40), strict=True)]
    assert np.array_equal(batches(0).images[0], np.pad(phantom.image(row), [(0, 0), *width]))
    assert np.array_equal(batches(0).labels[0], np.pad(phantom.label(row), width))


def test_cases_of_mostly_background_can_be_left_out(phantom):
    counts = phantom.voxels()
    share = counts[:, 1:].sum(axis=1) / counts.sum(axis=1)
    limit = float(np.median(share))
    rows = Batches(phantom, 0, 0, settings(min_foreground=limit), CPU).rows
    assert 0 < len(rows) < len(phantom.training(0))
    assert (share[rows] >= limit).all()
    with pytest.raises(UserError, match=r"lower training\.min_foreground"):
        Batches(phantom, 0, 0, settings(min_foreground=1.0), CPU)


def test_patch_size_is_by_default_the_largest_case_up_to_a_multiple_of_32(phantom):
    size = patch_size(phantom, settings(patch_size=None))
    largest = np.max(phantom.cases["shape"].tolist(), axis=0)
    assert all(n % 32 == 0 and n >= m > n - 32 for n, m in zip(size, largest, strict=True))


def test_runs_share_batches_unless_a_setting_of_the_batch_differs():
    assert batch_settings(settings()) == batch_settings(settings(learning_rate=0.5))
    assert batch_settings(settings()) != batch_settings(settings(min_foreground=0.1))
    assert batch_settings(settings()) != batch_settings(settings(augmentation=None))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_checksum_sees_every_element_and_its_place(dtype):
    tensor = torch.arange(6, dtype=dtype).reshape(2, 3)
    changed, moved = tensor.clone(), tensor.flip(0)
    changed[1, 2] += 1
    assert len({checksum(t).item() for t in (tensor, changed, moved)}) == 3


def off(**changes):
    none = dict.fromkeys(("rotate", "scale", "noise", "brightness", "contrast", "gamma"), 0.0)
    return Augmentation(**{**none, "flip": False, "probability": 1.0, **changes}).model_dump()


def pair(dims: int):
    shape = (6, 2, *[24] * dims)
    labels = torch.zeros(6, *shape[2:], dtype=torch.uint8)
    labels[(slice(None), *[slice(6, 18)] * dims)] = 1
    labels[(slice(None), *[slice(9, 13)] * dims)] = 2
    generator = torch.Generator().manual_seed(0)
    return labels[:, None].float() + 0.1 * torch.randn(shape, generator=generator), labels


@pytest.mark.parametrize("dims", [2, 3])
def test_everything_off_changes_nothing(dims):
    images, labels = pair(dims)
    out = augment(images, labels, off(), torch.Generator().manual_seed(0))
    assert torch.equal(out[0], images)
    assert torch.equal(out[1], labels)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("change", [{"flip": True}, {"rotate": 40.0}, {"scale": 0.3}])
def test_labels_follow_the_image(dims, change):
    images, labels = pair(dims)
    found, moved = augment(images, labels, off(**change), torch.Generator().manual_seed(1))
    assert not torch.equal(moved, labels)
    assert set(moved.unique().tolist()) <= {0, 1, 2}
    # The image is its label plus a little noise, before as well as after.
    assert (found[:, 0] - moved.float()).abs().mean() < 0.2


@pytest.mark.parametrize("change", ["noise", "brightness", "contrast", "gamma"])
def test_intensities_change_and_labels_do_not(change):
    images, labels = pair(2)
    found, same = augment(images, labels, off(**{change: 0.5}), torch.Generator().manual_seed(1))
    assert torch.equal(same, labels)
    assert not torch.allclose(found, images, atol=1e-3)
    assert found.isfinite().all()


def strengths(change, images, of, probability=0.3):
    """What a change did to each image, by `of`; and which were changed."""
    options = off(**change, probability=probability)
    found, _ = augment(
        images,
        torch.zeros(len(images), *images.shape[2:]),
        options,
        torch.Generator().manual_seed(3),
    )
    changed = ((found - images).abs() > 1e-5).flatten(1).any(1)
    assert abs(changed.float().mean() - probability) < 0.03
    return of(images[changed].double(), found[changed].double()), found[changed]


def is_uniform(values, low, high):
    values = values.double().numpy()
    assert low - 1e-5 <= values.min() < low + 0.02 * (high - low)
    assert high - 0.02 * (high - low) < values.max() <= high + 1e-5
    assert scipy.stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-4


def ramps(count=4000, size=(4, 4)):
    """The same image many times: from -1 to 2 in equal steps."""
    return torch.linspace(-1, 2, math.prod(size)).view(1, 1, *size).repeat(count, 1, 1, 1)


def test_brightness_shifts_an_image_by_up_to_its_setting():
    shift, _ = strengths({"brightness": 0.1}, ramps(), lambda a, b: (b - a).flatten(1))
    assert torch.allclose(shift, shift[:, :1].expand_as(shift), atol=1e-5)  # all of it alike
    is_uniform(shift[:, 0], -0.1, 0.1)


def test_contrast_stretches_an_image_about_its_mean_by_up_to_its_setting():
    def factor(a, b):
        mean = a.mean((2, 3), keepdim=True)
        assert torch.allclose(b.mean((2, 3), keepdim=True), mean, atol=1e-5)
        return ((b - mean) / (a - mean)).flatten(1)

    factors, _ = strengths({"contrast": 0.2}, ramps(), factor)
    assert torch.allclose(factors, factors[:, :1].expand_as(factors), atol=1e-4)
    is_uniform(factors[:, 0], 0.8, 1.2)


def test_gamma_is_a_power_between_the_ends_of_each_channel():
    def exponent(a, b):
        a, b = (a + 1) / 3, (b + 1) / 3
        assert torch.allclose(b.amin((2, 3)), a.amin((2, 3)), atol=1e-5)
        assert torch.allclose(b.amax((2, 3)), a.amax((2, 3)), atol=1e-5)
        return b.flatten(1)[:, 1:-1].log() / a.flatten(1)[:, 1:-1].log()

    exponents, _ = strengths({"gamma": 0.2}, ramps(), exponent)
    assert torch.allclose(exponents, exponents[:, :1].expand_as(exponents), atol=1e-3)
    is_uniform(exponents[:, 5], 0.8, 1.2)


def test_noise_has_a_standard_deviation_of_up_to_its_setting():
    images = torch.zeros(1500, 1, 32, 32)
    deviation, _ = strengths({"noise": 0.1}, images, lambda a, b: (b - a).flatten(1).std(dim=1))
    assert deviation.max() < 0.106
    assert scipy.stats.kstest(deviation.numpy(), "uniform", (0, 0.1)).pvalue > 1e-4


def test_each_axis_is_mirrored_in_every_other_image():
    images = torch.arange(16.0).view(1, 1, 4, 4).repeat(4000, 1, 1, 1)
    found, _ = augment(
        images, torch.zeros(4000, 4, 4), off(flip=True), torch.Generator().manual_seed(3)
    )
    kinds = [images, images.flip(2), images.flip(3), images.flip(2, 3)]
    shares = [(found == kind).flatten(1).all(1).float().mean() for kind in kinds]
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx([0.25] * 4, abs=0.03)


@pytest.mark.parametrize("size", [(20, 20), (20, 20, 20)])
def test_images_are_turned_and_scaled_by_up_to_the_settings(size):
    options = off(rotate=15.0, scale=0.15, probability=0.3)
    draws = _draw(4000, size, options, torch.Generator().manual_seed(3))
    assert len(draws["resampled"]) == pytest.approx(1200, abs=120)
    assert len(draws["resampled"].unique()) == len(draws["theta"]) == len(draws["resampled"])
    matrix = draws["theta"][:, :, :-1].double()
    assert not draws["theta"][:, :, -1].any()  # nothing is shifted
    factors = matrix.det() ** (-1 / len(size))
    is_uniform(factors, 0.85, 1.15)
    turns = matrix * factors.view(-1, 1, 1)
    assert torch.allclose(
        turns @ turns.mT, torch.eye(len(size)).double().expand_as(turns), atol=1e-4
    )
    if len(size) == 2:
        is_uniform(torch.atan2(turns[:, 1, 0], turns[:, 0, 0]).rad2deg(), -15, 15)
    else:  # z, y and x in turn: as scipy has them, from the outermost
        found = scipy.spatial.transform.Rotation.from_matrix(turns.numpy()).as_euler("xyz", True)
        for angle in torch.from_numpy(found).T:
            is_uniform(angle, -15, 15)


def test_a_volume_turns_about_x_then_y_then_z_as_in_scipy():
    angles = torch.tensor([[0.3, 0.0, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 0.3], [0.2, -0.5, 0.7]])
    expected = scipy.spatial.transform.Rotation.from_euler("xyz", angles.double().numpy())
    found = _rotation([*angles.T])
    np.testing.assert_allclose(found.numpy(), expected.as_matrix(), atol=1e-6)


@pytest.mark.parametrize("size", [(9, 14), (7, 8, 11)])
def test_images_are_resampled_as_scipy_does_it(size):
    """Turned and scaled about the middle, in pixels; what lies outside is mirrored at the edge."""
    rng, options = np.random.default_rng(0), off(rotate=40.0, scale=0.3)
    images = torch.from_numpy(rng.normal(size=(3, 1, *size))).float()
    labels = torch.from_numpy(rng.integers(0, 9, (3, *size), dtype=np.uint8))
    theta = _draw(3, size, options, torch.Generator().manual_seed(5))["theta"]
    found, moved = augment(images, labels, options, torch.Generator().manual_seed(5))
    xyz = np.array(size[::-1])
    for n, of_grid in enumerate(theta[:, :, :-1].double().numpy()):
        matrix = (of_grid * xyz[:, None] / xyz)[::-1, ::-1]  # in pixels, rows first
        turn = matrix / np.linalg.det(matrix) ** (1 / len(size))
        np.testing.assert_allclose(turn @ turn.T, np.eye(len(size)), atol=1e-5)
        middle = (np.array(size) - 1) / 2
        where = {"matrix": matrix, "offset": middle - matrix @ middle, "mode": "reflect"}
        expected = scipy.ndimage.affine_transform(images[n, 0].double().numpy(), order=1, **where)
        np.testing.assert_allclose(found[n, 0].numpy(), expected, atol=1e-4)
        expected = scipy.ndimage.affine_transform(labels[n].numpy(), order=0, **where)
        assert (moved[n].numpy() == expected).mean() > 0.99  # but for ties


def test_a_turned_square_stays_one_where_the_image_is_none():
    labels = torch.zeros(6, 24, 48, dtype=torch.uint8)
    labels[:, 8:16, 20:28] = 1
    _, turned = augment(
        labels[:, None].float(), labels, off(rotate=90.0), turning_the_first_fully()
    )
    rows, columns = turned[0, :, 12:36].nonzero().T  # what lies beyond is mirrored
    assert [rows.min(), rows.max(), columns.min(), columns.max()] == pytest.approx(
        [8, 15, 8, 15], abs=1
    )


def test_a_rotation_by_a_right_angle_turns_the_picture():
    images, labels = pair(2)
    images[:, :, :4, :] += 5  # a bright edge at the top
    turned, _ = augment(images, labels, off(rotate=90.0), turning_the_first_fully())
    sides = [turned[0, 0, :, :4].mean(), turned[0, 0, :, -4:].mean(), turned[0, 0, :4].mean()]
    assert max(sides[:2]) > 4
    assert sides[2] < 3


def turning_the_first_fully():
    """A generator that draws almost the largest angle for the first image; found by search."""
    seeds = range(10_000)
    draws = (torch.rand(6, generator=torch.Generator().manual_seed(seed)) for seed in seeds)
    seed = next(seed for seed, draw in zip(seeds, draws, strict=True) if draw[0] > 0.9975)
    return torch.Generator().manual_seed(seed)


def test_noise_is_a_function_of_seed_row_and_element():
    rows = torch.tensor([0, 3])
    noise = counter_noise(7, rows, 4001)
    assert torch.equal(noise, counter_noise(7, rows, 4001))
    assert torch.equal(noise[1:], counter_noise(7, torch.tensor([3]), 4001))
    for other in (counter_noise(8, rows, 4001), counter_noise(7, rows + 1, 4001)):
        assert not torch.isclose(noise, other).all()
        assert abs(torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1]) < 0.05


def test_the_hash_is_that_of_splitmix64():
    """Its first outputs from the seed 0, as Vigna's reference implementation gives them."""
    expected = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC)
    assert [x % 2**64 for x in _hash(torch.arange(1, 5)).tolist()] == [*expected]


@pytest.mark.parametrize("seed", [0, 1, 2**62 - 1])
def test_noise_is_standard_normal_and_independent(seed):
    """By Kolmogorov and Smirnov, and by correlations of neighbours, of rows and of the two halves."""
    noise = counter_noise(seed, torch.arange(4), 50_000)
    assert scipy.stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-4
    left, right = noise.chunk(2, dim=1)
    pairs = [(noise[:, 1:], noise[:, :-1]), (noise[0], noise[1]), (left, right)]
    for a, b in [*pairs, *((a**2, b**2) for a, b in pairs)]:
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.025


@pytest.mark.parametrize("size", [(16, 20), (8, 10, 12)])
def test_a_batch_is_changed_with_one_copy_to_the_device(size, monkeypatch):
    """Counted on torch's device "meta", which refuses tensors of the CPU as a GPU does."""
    copies = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            kwargs, name = kwargs or {}, func.overloadpacket.__name__
            target = torch.device(kwargs.get("device") or "cpu")
            if name == "_to_copy" and (args[0].device.type, target.type) == ("cpu", "meta"):
                copies.append(kwargs["non_blocking"])
            return func(*args, **kwargs)

    images, labels = torch.empty(4, 1, *size, device="meta"), torch.empty(4, *size, device="meta")
    every = {**settings()["augmentation"], "probability": 1.0}
    with Copies():
        augment(images, labels, every, torch.Generator().manual_seed(0))
    assert copies == [True]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_noise_on_a_gpu_is_that_of_the_cpu():
    rows = torch.tensor([0, 3])
    gpu = counter_noise(7, rows.cuda(), 4001).cpu()
    torch.testing.assert_close(gpu, counter_noise(7, rows, 4001), rtol=1e-5, atol=1e-5)
