"""Which loss should I train my segmentation model with."""
