"""What docstrings say of arguments and fields is what the code has: all that they name is there, none is left out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import stridekit

ROOT = Path(stridekit.__file__).parent
PUBLIC = {
    *stridekit.__all__,
    *stridekit.vram.__all__,
    *stridekit.networks.__all__,
    "Plan",
    "ConvGeometry",
    "zone_plate",
}
FILES = sorted(path for path in ROOT.rglob("*.py"))
Documented = ast.FunctionDef | ast.ClassDef


def section(text: str, title: str) -> list[str]:
    """Return the names that a section of a NumPy docstring explains, in order."""
    if f"{title}\n-" not in text:
        return []
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\w[^\n]*\n-+\n|\Z)", text, re.MULTILINE | re.DOTALL)
    lines = [] if found is None else [line for line in found[1].splitlines() if re.match(r"\w", line)]
    return [name.strip(" *") for line in lines for name in line.split(" : ")[0].split(",")]


def defined(node: ast.AST, inside: str = "") -> Iterator[tuple[str, Documented, ast.ClassDef | None]]:
    """Yield what is defined in a file, with its class."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield f"{inside}{child.name}", child, node if isinstance(node, ast.ClassDef) else None
            yield from defined(child, f"{inside}{child.name}.")


def arguments(function: ast.FunctionDef, of: ast.ClassDef | None) -> list[str]:
    """Return the arguments that a caller gives."""
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    bound = of is not None and not any(getattr(each, "id", "") == "staticmethod" for each in function.decorator_list)
    return names[1:] if bound else names


def constructor(node: ast.ClassDef) -> list[str]:
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            return arguments(each, node)
    return fields(node)


def fields(node: ast.ClassDef) -> list[str]:
    return [
        each.target.id
        for each in node.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and "ClassVar" not in ast.dump(each)
    ]


def mistakes(name: str, node: Documented, of: ast.ClassDef | None) -> Iterator[str]:
    text = ast.get_docstring(node) or ""
    told = section(text, "Parameters")
    there = constructor(node) if isinstance(node, ast.ClassDef) else arguments(node, of)
    unknown = [each for each in told if there and each not in there]
    missing = [each for each in there if each not in told]
    if unknown:
        yield f"{name}: there is no argument {unknown}"
    if told and missing and name.split(".")[0] in PUBLIC and "._" not in name:
        yield f"{name}: says nothing of {missing}"
    if isinstance(node, ast.ClassDef):
        gone = [each for each in section(text, "Attributes") if each not in ast.dump(node)]
        if gone:
            yield f"{name}: has no attributes {gone}"


def test_docstrings_name_the_arguments_and_fields_that_there_are() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {mistake}"
        for path in FILES
        for name, node, of in defined(ast.parse(path.read_text(encoding="utf-8")))
        for mistake in mistakes(name, node, of)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_workspace_takes_as_many_blocks_as_its_docstring_says() -> None:
    counted = 0
    for path in (ROOT / "networks" / "execution" / "kernels").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        for name, node, _ in defined(ast.parse(source)):
            said = re.match(r"(One|Two|Three) blocks?\b", ast.get_docstring(node) or "")
            taken = re.search(r"block_bytes\((\d)\)", ast.get_source_segment(source, node) or "")
            if said and taken and name.endswith("_workspace"):
                counted += 1
                assert {"One": 1, "Two": 2, "Three": 3}[said[1]] == int(taken[1]), f"{path.name}: {name}"
    assert counted > 10


def test_a_wrong_docstring_is_found() -> None:
    source = '''
def conv2d(x, weight):
    """Convolve.

    Parameters
    ----------
    x : array
    wait : array
    """
'''
    ((name, node, of),) = defined(ast.parse(source))
    assert list(mistakes(name, node, of)) == [
        "conv2d: there is no argument ['wait']",
        "conv2d: says nothing of ['weight']",
    ]
