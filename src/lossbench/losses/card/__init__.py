"""The card of a loss: what it computes, measured on small batches and never declared."""

from lossbench.losses.card.measure import PROPERTIES as PROPERTIES
from lossbench.losses.card.measure import Property as Property
from lossbench.losses.card.measure import leaves_out_class_0 as leaves_out_class_0
from lossbench.losses.card.measure import measure as measure
from lossbench.losses.card.probes import SIZES as SIZES
from lossbench.losses.card.probes import Measured as Measured
from lossbench.losses.card.probes import RefusedError as RefusedError
from lossbench.losses.card.probes import labels_of as labels_of
from lossbench.losses.card.probes import probe_voxels as probe_voxels
