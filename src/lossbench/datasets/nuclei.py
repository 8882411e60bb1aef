"""Nuclei of the Data Science Bowl 2018 (BBBC038): background, interior, boundary."""

from pathlib import Path
from typing import Any

import numpy as np

from lossbench.config import UserError
from lossbench.datasets.download import fetch
from lossbench.datasets.images import read_image, read_mask

URL = "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip"
# The Broad Institute publishes none; two public projects that download the file record this one,
# fsantibanezleal/CAOS_FrothSeg among them.
HASH = "sha256:dcb6edc2690f137406638b2309581a71522c4dff19157d118453b448dcddcb68"


class Nuclei:
    """Stage 1 training images, grey ones with their channel repeated three times.

    Read from ``images/`` and ``labels/`` in ``data_root/dsb2018``, else from the official layout
    in ``data_root/dsb2018/stage1_train``, which is downloaded where neither is there. A nucleus
    pixel is boundary where one of its 4 neighbours is no pixel of the same nucleus.

    Parameters
    ----------
    data_root
        The folder that holds dsb2018, or will hold it.
    """

    def __init__(self, data_root: str | Path) -> None:
        root = Path(data_root) / "dsb2018"
        official = root / "stage1_train"
        self.sources = [root]  # and not all that the data root holds
        self.classes = ["background", "interior", "boundary"]
        if (root / "labels").is_dir():
            self._images = sorted((root / "images").glob("*.png"))
            self._labels = [root / "labels" / path.name for path in self._images]
        else:
            if not official.is_dir():
                fetch(URL, HASH, official)
            self._images = sorted(official.glob("*/images/*.png"))
            self._labels = [path.parents[1] / "masks" for path in self._images]
        if not self._images:
            page = "https://bbbc.broadinstitute.org/BBBC038"
            raise UserError(
                f"{root}: holds no images; unpack stage1_train.zip of {page} as {official}"
            )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, mask = self._images[index], self._labels[index]
        image = read_image(path, channels=3)
        size = image.shape[1:]
        return {
            "image": image,
            "label": _from_instances(mask, size) if mask.is_dir() else read_mask(mask),
            "spacing": (1.0, 1.0),
            "case": path.stem[:16],  # of 64 hexadecimal digits
            "file": str(mask),
        }


def interior_and_boundary(instances: np.ndarray) -> np.ndarray:
    """Classes from numbered nuclei: int (H, W), 0 outside -> uint8 (H, W)."""
    padded = np.pad(instances, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    at_edge = np.logical_or.reduce([neighbour != instances for neighbour in neighbours])
    return np.where(instances == 0, 0, np.where(at_edge, 2, 1)).astype(np.uint8)


def _from_instances(folder: Path, shape: tuple[int, int]) -> np.ndarray:
    """Classes from a folder of masks, one for each nucleus; the first by name wins an overlap."""
    instances = np.zeros(shape, dtype=np.int32)
    for number, path in enumerate(sorted(folder.glob("*.png")), start=1):
        mask = read_mask(path)
        if mask.shape != shape:
            raise UserError(
                f"{path}: has size {mask.shape}, and its image {shape}; they must be equal"
            )
        instances[(mask > 0) & (instances == 0)] = number
    return interior_and_boundary(instances)
