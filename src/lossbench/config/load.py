"""Read experiment.json, as the workflow or `compare --cases` writes it."""

import json
from pathlib import Path

from pydantic import ValidationError

from lossbench.config.errors import UserError, problem_text
from lossbench.config.experiment import Experiment, Study


def load(path: str | Path) -> Experiment:
    """Read the experiment.json of an experiment, as the workflow writes it.

    Raises
    ------
    UserError
        Where it is missing or damaged, or is of results of other programs.
    """
    study = load_study(path)
    if not isinstance(study, Experiment):
        raise UserError(f"{path}: of results of other programs, not of an experiment")
    return study


def load_study(path: str | Path) -> Study:
    """Read experiment.json of an `Experiment`, or of a `Study` of results of other programs.

    Raises
    ------
    UserError
        Where it is missing or damaged.
    """
    try:
        text = Path(path).read_text()
        content = json.loads(text)
        if "losses" in content:
            code = content.pop("code", {})
            return Experiment.model_validate(content).with_code(code)
        return Study.model_validate_json(text, context={"any_name": True})
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the workflow, which writes it") from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"])) or "the file"
        raise _damaged(path, f"{key}: {problem_text(problem, [])}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(path, str(error).splitlines()[0]) from None


def _damaged(path: str | Path, what: str) -> UserError:
    return UserError(f"{path}: damaged ({what}); delete it and run the workflow again")
