"""The user's own code: the files behind a `_target_`, found and read, never imported.

With the files that this code or its keywords name, such as weights. What code opens by a name that
it computes is seen when it does so: `common.files_read`.
"""

import ast
import hashlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import resolve_name
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from lossbench.common.files import digest_of
from lossbench.common.instantiate import NOT_THE_USERS, add_user_folders
from lossbench.config import UserError, unnamed

INSTALLED_IN = {"site-packages", "dist-packages"}
# A file that uses one of these imports by a name that may be computed: it may import what is next
# to it, and whatever a text in it names.
IMPORTERS = {
    *("import_module", "__import__", "exec", "run_path", "run_module"),
    *("spec_from_file_location", "SourceFileLoader", "load_source", "attach", "attach_stub"),
}
WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".bin")
MODULE_NAME = re.compile(r"\.*[^\W\d]\w*(\.[^\W\d]\w*)*")


def code_of(*specs: Any, with_data: bool = True) -> dict[str, str]:
    """Digests of the user's files that components are made of.

    These are the modules of their `_target_`, nested ones included, what these import, at the top
    or within functions, and the files that a keyword or a text in a module names. Installed
    packages, Python and lossbench itself are not the user's.

    Parameters
    ----------
    specs
        Specifications of components: mappings with `_target_`.
    with_data
        False for datasets: the files that these name are their data, of which `sources` knows.

    Returns
    -------
    dict
        SHA-256 of each file, by its path below the folder from which it is imported, sorted.
        Modules that do not exist are left out: `locate` says so, with what to do.
    """
    add_user_folders()
    importlib.invalidate_caches()
    modules = _Modules()
    names = [target.rpartition(".")[0] for spec in specs for target in _targets(spec)]
    files: dict[str, str] = {}
    seen: set[str] = set()
    while names:
        name = names.pop()
        if name in seen:
            continue
        seen.add(name)
        if name.endswith(".*"):
            names += modules.inside(name.removesuffix(".*"))
            continue
        names += [name.rpartition(".")[0]] * ("." in name)  # a package is imported first
        file = modules.file(name)
        if file is None:
            continue
        content = file.read_bytes()
        is_package = file.stem == "__init__"
        path = name.replace(".", "/") + ("/__init__" if is_package else "")
        files[path + "".join(file.suffixes)] = hashlib.sha256(content).hexdigest()
        if file.suffix == ".py":
            names += modules.imported(content, file, name, is_package)
    if with_data:
        for name, file in [*_named_by_keywords(specs), *modules.named_files]:
            stat = file.stat()
            files[name] = _digest_of_data(file.absolute(), stat.st_mtime_ns, stat.st_size)
    return dict(sorted(files.items()))


@cache
def _digest_of_data(file: Path, mtime_ns: int, size: int) -> str:
    """SHA-256 of a file that may be large, and that many losses name."""
    return digest_of(file)


def weights_file(spec: Mapping[str, Any]) -> Path | None:
    """The file of an entry's `encoder_weights`; None where they have a name, or there are none."""
    value = spec.get("encoder_weights")
    is_file = isinstance(value, str) and value.endswith(WEIGHT_FILES)
    return Path(value) if is_file else None


def _named_by_keywords(specs: Sequence[Any]) -> Iterator[tuple[str, Path]]:
    """Files that keywords name, and all in the folders that they name."""
    # The name of an entry is none of its keywords.
    for text in texts_of([unnamed(spec) for spec in specs if isinstance(spec, Mapping)]):
        path = Path(text)
        if _is(path.is_file):
            yield text, path
        elif text and _is(path.is_dir) and path.resolve() not in _not_of_a_component():
            for file in sorted(path.rglob("*")):
                name = file.relative_to(path)
                if file.is_file() and not any(part.startswith((".", "__")) for part in name.parts):
                    yield f"{text}/{name}", file


def _not_of_a_component() -> set[Path]:
    """Folders that a keyword may happen to name: the working directory, results, data."""
    here = Path.cwd().resolve()
    return {here, *here.parents, here / "results", here / "data"}


def texts_of(value: Any) -> Iterator[str]:
    """The texts of a specification, but for `_target_`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key != "_target_":
                yield from texts_of(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from texts_of(item)


def changed_files(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Files that differ, are new or are gone, sorted."""
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))


def refuse_other_code(
    expected: Mapping[str, str], what: str, *specs: Any, with_data: bool = True
) -> None:
    """See that the user's files are still those that something is to be made of.

    Parameters
    ----------
    expected
        Digests of these files, and perhaps of others; empty where they are not known, as where
        the specification was written by hand.
    what
        Begins the message: ``run.json``.
    specs, with_data
        The components that are about to be made, as `code_of` takes them.

    Raises
    ------
    UserError
        Names the files that have changed.
    """
    code = code_of(*specs, with_data=with_data) if expected else {}
    if changed := changed_files(expected, {**expected, **code}):
        verb = "has" if len(changed) == 1 else "have"
        raise UserError(
            f"{what}: {', '.join(changed)} {verb} changed since it was written; "
            "run the workflow again"
        )


def _targets(value: Any) -> Iterator[str]:
    """Every `_target_` of a specification."""
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield value["_target_"]
        for item in value.values():
            yield from _targets(item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _targets(item)


class _Modules:
    """Modules by name, as the import system finds them, but for those of installed packages."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}
        self._folders: list[str] = []  # that the user's code itself adds to sys.path
        self.named_files: list[tuple[str, Path]] = []  # by a text in a module

    def file(self, name: str) -> Path | None:
        """The file of a module, if it is the user's."""
        spec = self._find(name)
        file = Path(spec.origin) if spec and spec.origin else None
        return file if file and file.is_file() and is_users(file) else None

    def inside(self, package: str) -> list[str]:
        """Names of the modules in a package."""
        spec = self._find(package)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        return [f"{package}.{module.name}" for module in iter_modules(folders)]

    def imported(self, content: bytes, file: Path, module: str, is_package: bool) -> list[str]:
        """Names of the modules that a module may import: some are no modules but what these hold.

        ``package.*`` stands for all modules of a package.
        """
        try:
            nodes = [*ast.walk(ast.parse(content))]
        except (SyntaxError, ValueError):  # importing it will say so
            return []
        package = module if is_package else module.rpartition(".")[0]
        names, texts, used = [], [], set()
        for node in nodes:
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                names.append(base)
                dot = "" if base.endswith(".") else "."
                names += [f"{base}{dot}{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.Name):
                used.add(node.id)
            elif isinstance(node, ast.Attribute):
                used |= {node.attr, ast.unparse(node)} if node.attr == "path" else {node.attr}
        self.named_files += _named_by_texts(texts, file.parent, package)
        if used & IMPORTERS:
            named = [text.strip(".") if text.endswith(".") else text for text in texts]
            named = [text.removesuffix(".py").replace("/", ".") for text in named]
            named = [text for text in named if MODULE_NAME.fullmatch(text)]
            names += [*named, *(f"{text}.*" for text in named)]
            here = [path.stem for path in file.parent.glob("*.py")]
            names += [f"{package}.{stem}" if package else stem for stem in here]
        if used & {"sys.path", "addsitedir"}:
            places = (file.parent, file.parent.parent, Path.cwd())
            folders = [*places, *(place / text for place in places for text in texts if text)]
            self._folders += [str(folder) for folder in folders if _is(folder.is_dir)]
            self._specs.clear()  # what was not found may be found there
        absolute = []
        for name in names:
            with suppress(ImportError):  # relative to no package
                absolute.append(resolve_name(name, package))
        return absolute

    def _find(self, name: str) -> ModuleSpec | None:
        if name not in self._specs:
            parent, _, last = name.rpartition(".")
            if not parent:
                self._specs[name] = self._find_top_level(name)
            else:
                package = self._find(parent)
                folders = package.submodule_search_locations if package else None
                # Without the name of its parent, which need not be imported yet.
                found = PathFinder.find_spec(last, folders) if folders and last else None
                self._specs[name] = found
        return self._specs[name]

    def _find_top_level(self, name: str) -> ModuleSpec | None:
        if not name or name in sys.stdlib_module_names:
            return None
        # What would be imported under the name, whatever is imported already.
        specs = (finder.find_spec(name, None) for finder in sys.meta_path)
        spec = next(filter(None, specs), None) or PathFinder.find_spec(name, self._folders)
        # A namespace package has no file, and may have folders of the user's.
        found = spec and (not spec.origin or is_users(Path(spec.origin)))
        return spec if found else None


def _named_by_texts(texts: Sequence[str], folder: Path, package: str) -> Iterator[tuple[str, Path]]:
    """Files that texts of a module name: next to it, in the working directory or in full.

    ``Path(__file__).parent / "weights" / "a.npy"`` names a folder and a file in it. A text without
    a dot is hardly the name of a file.
    """
    plain = [text for text in texts if text[:1] not in ("", ".")]
    for place, prefix in ((folder, package.replace(".", "/")), (Path.cwd(), ".")):
        inside = [text for text in plain if _is((place / text).is_dir)]
        for text in [*plain, *(f"{outer}/{text}" for outer in inside for text in plain)]:
            path = place / text
            if path.suffix not in ("", ".py") and _is(path.is_file) and is_users(path):
                yield f"{prefix}/{text}".lstrip("/") if not Path(text).is_absolute() else text, path


def is_users(file: Path) -> bool:
    """Whether a file is the user's: neither Python's, nor installed, nor lossbench's own."""
    others = any(file.is_relative_to(folder) for folder in NOT_THE_USERS)
    return not others and not INSTALLED_IN & {*file.parts}


def _is(test: Callable[[], bool]) -> bool:
    """What `Path.is_file` or `Path.is_dir` says; False where a text is no path."""
    with suppress(OSError, ValueError):
        return test()
    return False
