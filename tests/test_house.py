"""The house: which room may import which, one name for one thing, functions that can be read, every file on the map."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import stridekit as sk

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "stridekit"
FLOORS = (
    "__main__",
    "cli",
    "report torch",
    "compare networks",
    "ops",
    "planning",
    "backends",
    "problems",
    "vram",
    "memory drawing",
    "arguments concurrency extras",
    "errors",
)
"""From the street door down to the ground. `stridekit/__init__.py` names what is public, and may import any."""
PARALLEL = ("backends/", "networks/operations/", "networks/execution/", "networks/readers/")
"""Rooms of one plan: whoever knows the files of one knows those of the next."""
MOST_PARAMETERS, MOST_LINES = 9, 80


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, *, types: bool = True) -> Iterator[str]:
    """Yield every module of the package that a file imports: at once, lazily and, if `types`, for types alone."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
            skipped.update(node.body)
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "stridekit")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "stridekit":
            folder = ROOT.joinpath(*node.module.split("."))
            for name in node.names:
                inside = folder / name.name
                yield (
                    f"{node.module}.{name.name}"
                    if inside.is_dir() or inside.with_suffix(".py").exists()
                    else node.module
                )


def room_of(module: str) -> str:
    return module.split(".")[1]


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms.split())


def functions() -> Iterator[tuple[Path, str, ast.FunctionDef]]:
    """Yield every function with its file and its name, that of its class before it."""

    def inside(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, ast.FunctionDef]]:
        for child in ast.iter_child_nodes(node):
            own = (*names, child.name) if isinstance(child, ast.ClassDef | ast.FunctionDef) else names
            if isinstance(child, ast.FunctionDef):
                yield ".".join(own), child
            yield from inside(child, own)

    for path in files():
        for name, function in inside(tree(path), ()):
            yield path, name, function


def public(path: Path, name: str) -> bool:
    """Say whether people call a function themselves: by its public name, on the command line, or in PyTorch's names."""
    return (
        path.is_relative_to(PACKAGE / "cli")
        or path.is_relative_to(PACKAGE / "ops")
        or path.is_relative_to(PACKAGE / "torch")
        or name.split(".")[0] in sk.__all__
        or name in ("Network.train_step", "compare_strides", "conv_geometry", "pool_problem", "conv_problem")
    )


def test_a_room_imports_only_from_rooms_below_it() -> None:
    arrows = [(path, module) for path in files() if path != PACKAGE / "__init__.py" for module in imports(path)]
    up = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path, module in arrows
        if module != "stridekit"
        and room_of(module_of(path)) != room_of(module)
        and floor_of(room_of(module_of(path))) >= floor_of(room_of(module))
    ]
    assert up == []


def test_no_files_import_each_other_in_a_circle() -> None:
    # A record may be written by a function that names it, for readers and mypy alone.
    reached = {module_of(path): {*imports(path, types=False)} - {module_of(path), "stridekit"} for path in files()}
    reached.pop("stridekit")
    while leaves := [module for module, others in reached.items() if not others & reached.keys()]:
        for module in leaves:
            del reached[module]
    while roots := [module for module in reached if not any(module in others for others in reached.values())]:
        for module in roots:
            del reached[module]
    circles = {module: sorted(others & reached.keys()) for module, others in reached.items()}
    assert circles == {}


def alone(path: Path) -> str:
    """Return where a name must be the only one of its kind: the file, or for parallel rooms all of them together."""
    inside = path.relative_to(PACKAGE).as_posix()
    if inside.startswith(PARALLEL):
        return inside.split("/")[0] + ("/cpu" if inside.startswith("backends/cpu/") else "")
    return inside


def homes(named: Iterable[tuple[str, Path]]) -> dict[str, set[str]]:
    """Return the names that have several homes, and these."""
    found = defaultdict(set)
    for name, path in named:
        found[name].add(alone(path))
    return {name: places for name, places in found.items() if len(places) > 1}


def test_no_two_files_have_one_name() -> None:
    assert homes((path.name, path) for path in files() if path.stem not in ("__init__", "__main__")) == {}


def test_no_two_public_classes_have_one_name() -> None:
    classes = (
        (node.name, path)
        for path in files()
        for node in tree(path).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert homes(classes) == {}


def test_no_function_takes_more_than_nine_arguments() -> None:
    many = {}
    for path, name, function in functions():
        given = function.args
        count = len([*given.posonlyargs, *given.args, *given.kwonlyargs])
        count -= bool(given.args) and given.args[0].arg in ("self", "cls")
        if count > MOST_PARAMETERS and not public(path, name):
            many[f"{path.relative_to(ROOT)}:{name}"] = count
    assert many == {}


def test_no_function_is_longer_than_eighty_lines() -> None:
    long = {}
    for path, name, function in functions():
        body = function.body
        first = body[0]
        told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        start = first.end_lineno if told else function.lineno
        lines = (function.end_lineno or 0) - (start or 0)
        if lines > MOST_LINES:
            long[f"{path.relative_to(ROOT)}:{name}"] = lines
    assert long == {}


def test_array_libraries_are_named_where_memory_and_backends_are() -> None:
    rooms = ("memory/", "backends/", "torch/", "networks/readers/torch/")
    named = {
        path.relative_to(PACKAGE).as_posix(): node.lineno
        for path in files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and node.value == "cupy"
    }
    assert {path: line for path, line in named.items() if not path.startswith(rooms)} == {}


def on_the_map() -> set[str]:
    """Return the folders that the map names, each at a line's start, and the files, each in the folder above it."""
    found: set[str] = set()
    tree_of_files = re.search(r"```text\n(stridekit/\n.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    assert tree_of_files
    folders: dict[int, str] = {}
    for line in tree_of_files[1].splitlines():
        indent = len(line) - len(line.lstrip())
        folders = {at: folder for at, folder in folders.items() if at < indent}
        if begins := re.match(r" *(\w+/)", line):
            folders[indent] = ["", *folders.values()][-1] + begins[1]
            found.add(folders[indent])
        found.update([*folders.values()][-1] + name for name in re.findall(r"\w+\.py\b", line))
    return found


def test_every_file_is_on_the_map() -> None:
    told = on_the_map()
    with_files = {name.rsplit("/", 1)[0] + "/" for name in told if name.endswith(".py")}
    missing = []
    for path in files():
        inside = path.relative_to(ROOT).as_posix()
        folder = inside.rsplit("/", 1)[0] + "/"
        if path.stem != "__init__" and inside not in told and (folder not in told or folder in with_files):
            missing.append(inside)
    gone = [name for name in told if name.startswith("stridekit/") and not (ROOT / name).exists()]
    assert (missing, gone) == ([], [])
