"""{_target_: dotted.Class, kwargs} -> object, with a type check and errors that name the entry."""

import importlib
import inspect
import json
import os
import sys
import sysconfig
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lossbench.common.global_state import preserve_global_state
from lossbench.config import UserError, did_you_mean

# Where code lies that came with Python, was installed, or is the package's own; or is in no file.
INSTALLED = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
OURS = str(Path(__file__).parents[1])
NOT_THE_USERS = (*INSTALLED, OURS, "<")
# The environment variable with the folders of the user's own modules, as a JSON list.
USER_PATH = "LOSSBENCH_PATH"
MODULE_CALLS = ("_wrapped_call_impl", "_call_impl")  # of torch, around each forward
# What is expected, where people know it by another name than its own.
KINDS = {
    "torch.nn.modules.module.Module": "torch.nn.Module",
    "collections.abc.Callable": "class with __call__(prediction, label, spacing)",
    "builtins.object": "class",
}


def instantiate(
    spec: Mapping[str, Any], expects: type, where: str, fill: Mapping[str, Any] | None = None
) -> Any:
    """Make an object from its specification; what that changes for the process is put back.

    Parameters
    ----------
    spec
        `_target_`, the dotted path of a class, and its keyword arguments. An argument that is
        itself a mapping with `_target_` is made first.
    expects
        The class that `_target_` must derive from; checked before anything is called.
    where
        The entry, for messages: ``losses.dice``.
    fill
        Values for the arguments that are written ``$name``, or ``$name/`` and the rest of a path.

    Raises
    ------
    UserError
        Unknown module, class, argument or ``$name``; a class of another kind; an error of the
        constructor, with the line of the user's file where it was raised.
    """
    with preserve_global_state():
        return _instantiate(spec, expects, where, fill or {})


def _instantiate(
    spec: Mapping[str, Any], expects: type, where: str, fill: Mapping[str, Any]
) -> Any:
    cls = locate(spec["_target_"], where)
    if not (inspect.isclass(cls) and issubclass(cls, expects)):
        name = f"{expects.__module__}.{expects.__qualname__}"
        kind = KINDS.get(name, name)
        raise UserError(f"{where}: {spec['_target_']} is not a {kind}; name a class that is one")
    arguments = {
        key: _filled(value, f"{where}.{key}", fill)
        for key, value in spec.items()
        if key != "_target_"
    }
    _check_arguments(cls, arguments, where)
    try:
        return cls(**arguments)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except Exception as error:
        call = f"{spec['_target_']}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"
        raise UserError(
            f"{where}: {call} failed: {type(error).__name__}: {error} ({location_of(error)})"
        ) from error


def locate(target: str, where: str) -> Any:
    """Import what a dotted path names.

    Modules next to the user's config are found behind all others, so that a random.py there hides
    nothing.

    Raises
    ------
    UserError
        Where the module or the name does not exist; with the closest name that does.
    """
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise UserError(
            f"{where}: _target_ {target!r} is not a dotted path such as monai.losses.DiceLoss"
        )
    user_folders = add_user_folders()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not module_name.startswith(str(error.name)):
            raise UserError(f"{where}: importing {module_name} failed: {error}") from error
        hint = "it is searched for next to the config file, in the working directory and in .venv"
        raise UserError(
            f"{where}: no module {error.name!r} for _target_ {target!r}; {hint}"
        ) from None
    except Exception as error:
        raise UserError(
            f"{where}: importing {module_name} failed: "
            f"{type(error).__name__}: {error} ({location_of(error)})"
        ) from error
    if not hasattr(module, name):
        for folder in user_folders:
            file = Path(folder, *module_name.split(".")).with_suffix(".py")
            if file.is_file() and str(file) != getattr(module, "__file__", None):
                raise UserError(
                    f"{where}: {file} has the name of another module, {module_name}; rename it"
                )
        names = [n for n in dir(module) if not n.startswith("_")]
        raise UserError(f"{where}: {module_name} has no {name!r}; {did_you_mean(name, names)}")
    return getattr(module, name)


def add_user_folders() -> list[str]:
    """Have Python search the folders of the user's own modules, after all others."""
    user_folders = json.loads(os.environ.get(USER_PATH, "[]"))
    sys.path.extend(folder for folder in user_folders if folder not in sys.path)
    return user_folders


def location_of(error: BaseException) -> str:
    """File and line that raised an error: the last ones of the user, if any are the user's.

    Where arguments do not fit a signature, the last line is ours, which would mislead.
    """
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if frame.name not in MODULE_CALLS]
    users = [frame for frame in frames if not frame.filename.startswith(NOT_THE_USERS)]
    frame = (users or frames)[-1]
    if isinstance(error, TypeError) and frame.filename.startswith(OURS):
        return "in the call itself"
    return f"{Path(frame.filename).name}, line {frame.lineno}"


def _filled(value: Any, where: str, fill: Mapping[str, Any]) -> Any:
    """An argument as it is passed: a component is made, and a ``$name`` is filled in."""
    if isinstance(value, Mapping) and "_target_" in value:
        return _instantiate(value, object, where, fill)
    if isinstance(value, str) and value.startswith("$"):
        name, _, rest = value[1:].partition("/")
        if name not in fill:
            known = [f"${key}" for key in fill]
            raise UserError(f"{where}: unknown {value!r}; {did_you_mean('$' + name, known)}")
        return f"{fill[name]}/{rest}" if rest else fill[name]
    return value


def _check_arguments(cls: type, arguments: Mapping[str, Any], where: str) -> None:
    try:
        signature = inspect.signature(cls)
    except ValueError:  # a class written in C
        return
    parameters = signature.parameters.values()
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in named]
    for key in arguments:
        if key not in names and not takes_any:
            text = f"{cls.__name__} takes no argument {key!r}; {did_you_mean(key, names)}"
            raise UserError(f"{where}: {text}")
    for p in named:
        if p.default is p.empty and p.name not in arguments:
            raise UserError(f"{where}: {cls.__name__} needs the argument {p.name!r}")
