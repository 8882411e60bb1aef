"""Arrays larger than the memory, written piece by piece."""

from pathlib import Path

import numpy as np

PIECE = 2**24  # elements that are converted at a time


class GrowingArray:
    """A one-dimensional .npy file of uint8 or float32 that is written piece by piece.

    It is of uint8 as long as all pieces are.
    """

    def __init__(self, path: Path) -> None:
        self.length, self._dtype, self._file = 0, np.dtype(np.uint8), path.open("w+b")

    def __enter__(self) -> "GrowingArray":
        self._write_header()
        return self

    def append(self, array: np.ndarray) -> None:
        """Append the elements in C order."""
        if array.dtype == np.float32 and self._dtype == np.uint8:
            self._widen()
        self._file.write(np.ascontiguousarray(array, dtype=self._dtype).data)
        self.length += array.size

    def _widen(self) -> None:
        """Make float32 of what has been written, in place: from the end, where there is room."""
        start = self._file.tell() - self.length
        for end in range(self.length, 0, -PIECE):
            begin = max(0, end - PIECE)
            self._file.seek(start + begin)
            piece = np.frombuffer(self._file.read(end - begin), np.uint8)
            self._file.seek(start + 4 * begin)
            self._file.write(piece.astype(np.float32).data)
        self._dtype = np.dtype(np.float32)
        self._file.seek(start + 4 * self.length)

    def __exit__(self, *error: object) -> None:
        with self._file:
            self._write_header()

    def _write_header(self) -> None:
        # numpy leaves room for the first axis to grow: the header keeps its length.
        self._file.seek(0)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, header)
