"""The default config, changes of it, and what is wrong with it."""

from pathlib import Path

import pytest
import yaml

from lossbench.config import ConfigError, validate

CONFIG = Path(__file__).parents[2] / "config"


def default() -> dict:
    raw = {}
    for name in ("datasets", "models", "losses", "config"):
        raw |= yaml.safe_load((CONFIG / f"{name}.yaml").read_text())
    return raw


def merged(base: dict, change: dict) -> dict:
    """As Snakemake merges config files: mappings merge, everything else replaces."""
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        base[key] = merged(base[key], value) if both else value
    return base


def problems(raw: dict, **files: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(raw, files)
    return str(caught.value)
