"""The JSON schema of an experiment, for editors."""

import json

from lossbench.config import Experiment


def schema() -> None:
    """Print it; workflow/schemas/experiment.schema.json is this text."""
    print(json.dumps(Experiment.model_json_schema(by_alias=True), indent=2, sort_keys=True))
