"""The catalogue of losses."""

from pathlib import Path

import yaml

CATALOGUE = yaml.safe_load((Path(__file__).parents[2] / "config/losses.yaml").read_text())["losses"]

TWO_CLASSES_ALONE = {"asymmetric_unified_focal", "smp_mcc"}
