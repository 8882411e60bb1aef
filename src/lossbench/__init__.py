"""Which loss should I train my segmentation model with?"""

__version__ = "0.2.0"
