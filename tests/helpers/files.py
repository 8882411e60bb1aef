"""Images, masks and volumes on disk, in the layouts that the package reads."""

import json

import nibabel
import numpy as np
from PIL import Image

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)
MASK = (GREY > 20).astype(np.uint8)


def write_volume(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def write_msd(root, names=("a", "b"), labels=None, shape=(5, 6, 7), channels=None):
    rng = np.random.default_rng(0)
    entries = []
    for name in names:
        image = rng.normal(size=shape if channels is None else (*shape, channels))
        write_volume(root / f"imagesTr/{name}.nii.gz", image.astype(np.float32))
        write_volume(root / f"labelsTr/{name}.nii.gz", rng.integers(0, 3, shape).astype(np.uint8))
        entries.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    labels = labels or {"0": "background", "1": "Left Part", "2": "edema (T2)"}
    (root / "dataset.json").write_text(json.dumps({"labels": labels, "training": entries}))
    return root


def write_nnunet(root, labels, channels=2, names=("x", "y"), ending=".nii.gz"):
    rng = np.random.default_rng(0)
    for name in names:
        for channel in range(channels):
            image = rng.normal(size=(4, 5, 6)).astype(np.float32) + channel
            write_volume(root / f"imagesTr/{name}_{channel:04d}.nii.gz", image)
        write_volume(
            root / f"labelsTr/{name}.nii.gz", rng.integers(0, 3, (4, 5, 6)).astype(np.uint8)
        )
    channel_names = {str(channel): "MRI" for channel in range(channels)}
    listing = {"channel_names": channel_names, "labels": labels, "file_ending": ending}
    (root / "dataset.json").write_text(json.dumps({**listing, "numTraining": len(names)}))
    return root


def write_image(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def folder(tmp_path, images, masks):
    for kind, files in (("images", images), ("masks", masks)):
        (tmp_path / kind).mkdir(exist_ok=True)
        for name, pixels in files.items():
            write_image(tmp_path / kind / name, pixels)
    return {"images": tmp_path / "images", "masks": tmp_path / "masks", "classes": ["no", "yes"]}
