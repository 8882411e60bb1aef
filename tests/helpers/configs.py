"""The default config, changes of it, and what is wrong with it."""

from pathlib import Path

import pytest
import yaml

from lossbench.config import ConfigError, validate
from lossbench.config import merged as merged

CONFIG = Path(__file__).parents[2] / "config"


def default() -> dict:
    raw = {}
    for name in ("datasets", "models", "losses", "config"):
        raw |= yaml.safe_load((CONFIG / f"{name}.yaml").read_text())
    return raw


def problems(raw: dict, **files: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(raw, files)
    return str(caught.value)
