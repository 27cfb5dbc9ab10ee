"""Mistakes of one line planted in the integers and the cpu's loop nests, one at a time: which tests see them?

    python -m tests.mutants --count 50 --log mutants.jsonl

Each mutant is put into a copy of the tree. The tests nearest to its file run first, then the rest of the short run, and
``-m thorough`` only where those see nothing; the first failure ends it. A test beyond the time limit has seen it too:
its mutant hangs. What survives asks for a test, or for a line in `EQUIVALENT` that says why nothing can see it.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CPU = "stridekit/backends/cpu"
_FORWARD = ("test_equivalence.py::test_every_algorithm_is_right_to_the_bound", "test_equivalence.py")
_GRADIENTS = ("test_gradients.py::test_a_gradient_is_right_to_the_bound", "test_gradients.py", "test_cpu_gradients.py")
NEAREST = {
    "stridekit/problems/conv_problem.py": ("test_planning.py", "test_errors.py", "test_vram.py"),
    "stridekit/problems/geometry.py": ("test_geometry.py", "test_receptive_field.py", "test_phases.py"),
    "stridekit/planning/dispatch.py": ("test_planning.py", "test_vram.py"),
    "stridekit/problems/phases.py": ("test_phases.py", *_GRADIENTS),
    **dict.fromkeys(
        (
            f"{CPU}/forward/{name}.py"
            for name in ("blocking", "loop_nest", "epilogue", "pack_input", "macrokernel", "address_tables")
        ),
        _FORWARD,
    ),
    f"{CPU}/forward/pack_weights.py": (_FORWARD[0], *_GRADIENTS, _FORWARD[1]),
    **dict.fromkeys(
        (f"{CPU}/weight_gradient/{name}.py" for name in ("loop_nest", "blocking", "pack_operands")), _GRADIENTS
    ),
    **dict.fromkeys((f"{CPU}/input_gradient/{name}.py" for name in ("algorithm", "pack_weights")), _GRADIENTS),
    f"{CPU}/columns/loop_nest.py": ("test_columns.py",),
    f"{CPU}/products/loop_nest.py": ("test_cpu_products.py",),
    f"{CPU}/pool/loop_nest.py": ("test_pool.py",),
}
"""The files that are mutated, and the runs nearest to each: that of one dtype first, which is compiled alone then."""

_ROOM, _BLOCK = "more room than is used", "how large a block grows for the sake of the cache: its cost"
EQUIVALENT: dict[tuple[str, str], str] = {
    ("forward/blocking.py", '"box": box + max(device.vector_bytes, 5 * itemsize),'): _ROOM,
    (
        "forward/blocking.py",
        "blocks = block_sizes(geometry, pixel_channels + itemsize, device.l2_bytes // 4)",
    ): _BLOCK,
    (
        "forward/pack_weights.py",
        "return not (b.lanewise or b.subgroups > 1) and weight.g == b.group_filters * weight.k",
    ): ("evenly spaced filters are gathered in the general way: its cost"),
    (
        "input_gradient/algorithm.py",
        "end = (dense.out_channels - 1) * filter_stride + dense.group_in_channels * dense.taps + itemsize",
    ): "more of the last weights are read one by one: its cost",
    (
        "weight_gradient/blocking.py",
        "return (outputs - 1) * axis.stride + axis.dilation * (axis.kernel - 1) + 2",
    ): _ROOM,
    (
        "input_gradient/algorithm.py",
        "apart = weight[0] == expected if dense.groups > 1 else weight[0] > expected",
    ): "weights that lie end to end are read one by one: its cost",
    (
        "input_gradient/algorithm.py",
        "apart = weight[0] != expected if dense.groups > 1 else weight[0] >= expected",
    ): "other weights of groups are read as vectors: the same bits",
    ("stridekit/problems/conv_problem.py", "ADDRESSABLE = 2**63 - 2"): "no dtype has an odd number of bytes",
    ("stridekit/problems/phases.py", "MOST_CLASSES = 513"): "how long planning may take",
    (
        "weight_gradient/blocking.py",
        "if box(max(2 * h, height), w) > room and not mostly_shared(axes[1], h):",
    ): _BLOCK,
    (
        "weight_gradient/blocking.py",
        "while w == width and h < height and slab(max(2 * h, height), w) <= room // 2:",
    ): _BLOCK,
}
"""File, below `CPU` if it lies there, and mutated line, stripped, of what changes no behaviour, and why."""

UNSEEN = {
    "cost": "chooses among algorithms that give the same bits",
    "_seconds": "words",
    "why": "words",
}
"""Functions that are left alone."""

_BINARY: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.FloorDiv: ("//", "%"), ast.Mod: ("%", "//"),
    ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"),
}  # fmt: skip
_COMPARED: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
}  # fmt: skip
_WORDS = (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)
_SYMMETRIC = {"min", "max", "zip", "isinstance"}


@dataclass(frozen=True)
class Mutant:
    """One line of one file, before and after."""

    file: str
    line: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before.strip()}  ->  {self.after.strip()}"

    @property
    def equivalent(self) -> str:
        """Why nothing can see it, if so."""
        return EQUIVALENT.get((self.file.removeprefix(f"{CPU}/"), self.after.strip()), "")

    def rank(self, seed: int) -> bytes:
        """Return a number that is drawn for the mutant, whichever line it has come to stand on."""
        return hashlib.sha256(f"{seed} {self.file} {self.before.strip()} {self.after.strip()}".encode()).digest()

    def planted(self, text: str) -> str:
        """Return the file's text with the mistake in it."""
        lines = text.splitlines(keepends=True)
        if lines[self.line - 1].rstrip("\n") != self.before:
            raise ValueError(f"{self}: the line has changed")
        lines[self.line - 1] = self.after + "\n"
        return "".join(lines)


Span = tuple[int, int, int, str]
"""Line, first and last column, and what takes their place."""


def mutants_of(file: str, text: str) -> list[Mutant]:
    """Return every mutant of a file."""
    lines, found = text.splitlines(), {}
    for line, start, end, put in _edits(ast.parse(text), [line.encode() for line in lines]):
        before = lines[line - 1]
        raw = before.encode()
        after = (raw[:start] + put.encode() + raw[end:]).decode()
        if after != before:
            found[line, after] = Mutant(file, line, before, after)
    return [*found.values()]


def _edits(tree: ast.AST, lines: Sequence[bytes]) -> Iterator[Span]:
    """Yield the edits of every expression that lies in one line and decides something."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or isinstance(node, _WORDS):
                continue
            if isinstance(node, ast.FunctionDef) and node.name in UNSEEN:
                continue
            if isinstance(node, ast.keyword) and node.arg == "strict":
                continue
            if isinstance(node, ast.expr) and node.lineno == node.end_lineno:
                yield from _edits_of(node, lines[node.lineno - 1])
            test = getattr(node, "test", None)
            if test is not None and not isinstance(node, ast.Assert) and test.lineno == test.end_lineno:
                inside = lines[test.lineno - 1][test.col_offset : test.end_col_offset].decode()
                yield test.lineno, test.col_offset, test.end_col_offset, f"not ({inside})"
            yield from _edits(node, lines)


def _edits_of(node: ast.expr, line: bytes) -> Iterator[Span]:
    def text(of: ast.expr) -> str:
        return line[of.col_offset : of.end_col_offset].decode()

    def whole(put: str) -> Span:
        return node.lineno, node.col_offset, node.end_col_offset or 0, put

    def between(left: ast.expr, right: ast.expr, old: str, new: str) -> Iterator[Span]:
        start, end = left.end_col_offset or 0, right.col_offset
        gap = line[start:end].decode()
        if gap.count(old) == 1:
            yield node.lineno, start, end, gap.replace(old, new)

    match node:
        case ast.BinOp(left=left, op=op, right=right) if not (_is_text(left) or _is_text(right)):
            if type(op) in _BINARY:
                yield from between(left, right, *_BINARY[type(op)])
            if isinstance(op, (ast.Add, ast.Sub)):
                yield whole(text(left))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARED:
            yield from between(left, right, *_COMPARED[type(op)])
        case ast.Constant(value=bool(value)):
            yield whole(str(not value))
        case ast.Constant(value=int(value)):
            yield whole(str(value + 1))
        case ast.BoolOp(op=op, values=[first, second, *_]):
            yield from between(first, second, *(("and", "or") if isinstance(op, ast.And) else ("or", "and")))
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield whole(f"({text(operand)})")
        case ast.Call(func=ast.Name(id="min" | "max" as name) as func):
            yield node.lineno, func.col_offset, func.end_col_offset or 0, {"min": "max", "max": "min"}[name]
        case ast.Call(func=ast.Name(id="range"), args=[last]):
            yield whole(f"range(({text(last)}) - 1)")
        case ast.Call(func=func, args=[ast.Name() as first, ast.Name() as second, *_]) if (
            first.id != second.id and getattr(func, "id", "") not in _SYMMETRIC
        ):
            start, end = first.col_offset, second.end_col_offset or 0
            gap = line[first.end_col_offset or 0 : second.col_offset].decode()
            yield node.lineno, start, end, second.id + gap + first.id


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def drawn(count: int, seed: int, only: Sequence[str] = ()) -> list[Mutant]:
    """Draw mutants, as many of one file as of another.

    Which come first follows from the seed and their own text alone: a change elsewhere draws no others.
    """
    queues = []
    for file in (file for file in NEAREST if not only or any(word in file for word in only)):
        every = mutants_of(file, (ROOT / file).read_text())
        queues.append(sorted((each for each in every if not each.equivalent), key=lambda each: each.rank(seed)))
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*queues))
    return [mutant for mutant in in_turn if mutant is not None][:count]


@dataclass(frozen=True)
class Found:
    """What became of a mutant: the run that saw it (or "none"), the first test that failed, and the seconds it took."""

    mutant: Mutant
    run: str
    test: str
    seconds: float


class Scratch:
    """A copy of the tree, with caches of its own.

    Parameters
    ----------
    folder
        Where the copy is put.
    limit
        Seconds without a test that ends, after which a run counts as one that hangs.
    """

    def __init__(self, folder: Path, limit: float):
        self.tree, self.limit = folder / "tree", limit
        self._caches = folder / "caches"
        self._caches.mkdir(mode=0o700)
        unwanted = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "*.egg-info")
        shutil.copytree(ROOT, self.tree, ignore=unwanted)

    def look_for(self, mutant: Mutant, thorough: bool) -> Found:
        """Plant a mutant, run tests until one fails, and put the file back."""
        path, start = self.tree / mutant.file, time.monotonic()
        text = path.read_text()
        # What is compiled depends on every file of the cpu backend: none of it serves anything else.
        cache = self._caches / ("cpu" if mutant.file.startswith(CPU) else "shared")
        cache.mkdir(mode=0o700, exist_ok=True)
        nearest = [f"tests/{name}" for name in NEAREST[mutant.file]]
        runs = [("nearest", [name, *(["-m", "not emulator"] if cache.name == "cpu" else [])]) for name in nearest]
        runs += [("short", []), *([("thorough", ["-m", "thorough"])] if thorough else [])]
        try:
            path.write_text(mutant.planted(text))
            for run, arguments in runs:
                if failed := self._failed(arguments, cache):
                    return Found(mutant, run, failed, time.monotonic() - start)
        finally:
            path.write_text(text)
            if cache.name == "cpu":
                shutil.rmtree(cache)
        return Found(mutant, "none", "", time.monotonic() - start)

    def _failed(self, arguments: Sequence[str], cache: Path) -> str:
        """Run pytest and return the first failure; empty if all passed."""
        environment = {**os.environ, "PYTHONPATH": str(self.tree), "STRIDEKIT_CACHE_DIR": str(cache)}
        # The tests of this file know lines that a mutant changes.
        quiet = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "--ignore=tests/test_mutants.py"]
        command = [sys.executable, "-m", "pytest", *quiet, *arguments]
        said = self._caches / "said"
        with said.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=self.tree, env=environment, stdout=file, stderr=file, start_new_session=True,
                preexec_fn=_limit_memory,
            )  # fmt: skip
        try:
            hangs = not self._ends(process, said)
        finally:
            _end(process)
        output = said.read_text(errors="replace")
        if hangs:
            return f"no test ends within {self.limit:.0f} s: {output[-200:]}"
        if process.returncode == 0:
            return ""
        failed = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - |$)", output, re.MULTILINE)
        return failed[1] if failed else f"ended with {process.returncode}: {output.strip()[-200:]}"

    def _ends(self, process: subprocess.Popen[bytes], said: Path) -> bool:
        """Wait while each test ends within the limit."""
        size, since = 0, time.monotonic()
        while process.poll() is None:
            time.sleep(0.2)
            if said.stat().st_size != size:
                size, since = said.stat().st_size, time.monotonic()
            elif time.monotonic() - since > self.limit:
                return False
        return True


def _limit_memory() -> None:
    """Let a mutant that allocates without end fail before the machine does."""
    resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a run with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=(), metavar="WORD", help="files whose name holds one of these")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many of those drawn")
    parser.add_argument("--short", action="store_true", help="do not ask the thorough run about survivors")
    parser.add_argument("--limit", type=float, default=300, help="seconds that one test may take")
    parser.add_argument("--log", type=Path, help="a file that gets a line of JSON for each mutant at once")
    parser.add_argument("--list", action="store_true", help="name the mutants and run nothing")
    given = parser.parse_args(arguments)
    mutants = drawn(given.count, given.seed, given.only)[given.skip :]
    if given.list:
        print(*mutants, sep="\n")
        return 0
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        scratch = Scratch(Path(folder), given.limit)
        for number, mutant in enumerate(mutants, given.skip):
            found = scratch.look_for(mutant, not given.short)
            counts[found.run] += 1
            print(f"{number:3d} {found.run:9s}{found.seconds:6.0f} s  {mutant}\n      {found.test}", flush=True)
            if given.log:
                with given.log.open("a") as log:
                    log.write(json.dumps(asdict(found)) + "\n")
    print("; ".join(f"{run}: {count}" for run, count in counts.items()))
    return 1 if counts["none"] else 0


if __name__ == "__main__":
    sys.exit(main())
