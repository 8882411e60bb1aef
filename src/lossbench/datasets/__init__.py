"""Datasets that the package reads, reached by `_target_` exactly like a user's own class.

A dataset yields cases, by index (`__len__` and `__getitem__`) or as a plain iterable. A case is
a dict:

- ``image``: numbers (C, *S), S of two or three axes, the same C and number of axes in all cases
- ``label``: whole numbers (*S), the index of the class of each voxel
- ``spacing``: size of a voxel along each axis of S, in mm or pixels
- ``case``: a name of its own
- ``subject`` (optional): cases of one subject share a fold
- ``part`` (optional, then of every case): train, validation or test, instead of folds
- ``file`` (optional): what messages name

A dataset has the attributes

- ``classes``: names; class 0 is the background
- ``background`` (optional): None where class 0 is a class like the others
- ``ignore`` (optional): the label of voxels that take part in neither loss nor metric
- ``regions`` (optional): names of classes that overlap, each with its labels, in place of `classes`
- ``folds`` (optional): the cases that each fold validates on, by name; a case in none is not used
- ``sliced`` (optional): true where cases are slices of volumes, which may be empty of signal

`lossbench.stages.prepare` checks all of it (`contract`).
"""

from lossbench.datasets.images import ImageFolder as ImageFolder
from lossbench.datasets.layouts import MSD as MSD
from lossbench.datasets.layouts import Decathlon as Decathlon
from lossbench.datasets.layouts import NNUNet as NNUNet
from lossbench.datasets.mni152 import MNI152 as MNI152
from lossbench.datasets.nuclei import Nuclei as Nuclei
from lossbench.datasets.phantom import Phantom as Phantom
