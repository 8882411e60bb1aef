"""Answer which loss to train a segmentation model with, by paired trainings."""

__version__ = "0.2.0"
