"""Network files: TOML read into layers, blocks written out, and errors that name file, line and key.

The format is described in the README, and the files in ``presets`` are examples of it.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from stridekit.arguments import printable
from stridekit.errors import NetworkError
from stridekit.memory.files import open_regular
from stridekit.memory.limits import DEEPEST_BLOCKS, LONGEST_NAME, MOST_LAYERS, MOST_TOML_BYTES, MOST_VALUES
from stridekit.networks.layers import Layer
from stridekit.networks.operations import FUNCTIONS, OPERATIONS, Activation, Operation
from stridekit.networks.readers import Draft
from stridekit.networks.readers.toml.lines import line_of, too_much

_TOP_KEYS = ("name", "source", "outputs", "layers", "blocks")
_BLOCK_KEYS = ("defaults", "layers")
_LAYER_KEYS = ("name", "op", "inputs", "shares")
_REPEAT_KEYS = ("repeat", "first")


def read_toml(path: Path) -> Draft:
    """Read a network file.

    Raises
    ------
    NetworkError
        As ``file:line: key: what is wrong``.
    """
    name = printable(str(path))
    try:
        with open_regular(path, most=MOST_TOML_BYTES) as file:
            text = file.read().decode("utf-8").replace("\r\n", "\n")
    except FileNotFoundError:
        raise NetworkError(f"{name}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise NetworkError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return parse_toml(text, name)


def parse_toml(text: str, file: str) -> Draft:
    """Read the text of a network file; `file` is its name in messages."""
    line, trouble = too_much(text)
    if trouble:
        raise NetworkError(f"{file}:{line}: {trouble}")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        raise NetworkError(f"{file}:{found[1] if found else text.count(chr(10)) + 1}: not TOML: {error}") from None
    return _Reader(text, file, document).draft()


@dataclass(frozen=True)
class _Place:
    """Where a layer is written: in which list of layers, and at which position."""

    block: str | None
    index: int


@dataclass
class _Scope:
    """One use of a block, or the network itself."""

    block: str | None
    prefix: str
    values: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    previous: str | None = None
    depth: int = 0


class _Reader:
    def __init__(self, text: str, file: str, document: dict[str, Any]):
        self.text, self.file, self.document = text, file, document
        self.layers: list[Layer] = []
        self.places: dict[str, _Place] = {}

    def draft(self) -> Draft:
        """Check the document and write the layers out."""
        document = self.document
        self._known(document, _TOP_KEYS, None)
        blocks = document.get("blocks", {})
        if not isinstance(blocks, dict):
            self._fail("blocks", "wanted tables such as [blocks.bottleneck]")
        for name, block in blocks.items():
            if not isinstance(block, dict):
                self._fail("blocks", f"block {name!r} is no table")
            if name in OPERATIONS or name in FUNCTIONS:
                self._fail(name, f"a block cannot be called {name!r}: an operation is", block=name)
            self._known(block, _BLOCK_KEYS, name)
            if not isinstance(block.get("defaults", {}), dict):
                self._fail("defaults", f"block {name!r}: wanted a table such as {{stride = 1}}", block=name)
        for key in ("name", "source"):
            if not isinstance(document.get(key, ""), str):
                self._fail(key, f"is {document[key]!r}; wanted a string")
        outputs = document.get("outputs")
        scope = _Scope(None, "")
        self._expand(self._list(document, None), scope)
        if outputs is not None and not _strings(outputs):
            self._fail("outputs", f"is {outputs!r}; wanted names of layers")
        return Draft(
            document.get("name", Path(self.file).stem),
            self.layers,
            None if outputs is None else [scope.names.get(name, name) for name in outputs],
            source=document.get("source", ""),
            placed=self._placed,
        )

    def _placed(self, error: NetworkError) -> NetworkError:
        """Say of what is wrong with the network where it is written."""
        place = self.places.get(error.layer or "")
        return self._error(error.key or ("op" if place else None), str(error), place)

    def _list(self, table: dict[str, Any], block: str | None) -> list[dict[str, Any]]:
        layers = table.get("layers")
        if not isinstance(layers, list) or not layers or not all(isinstance(layer, dict) for layer in layers):
            whose = "the network" if block is None else f"block {block!r}"
            self._fail("layers", f"{whose} needs a list of layers, each a table with op = ...", block=block)
        return layers

    def _expand(self, written: list[dict[str, Any]], scope: _Scope) -> None:
        """Append the layers of a list, with the blocks among them written out."""
        counts: dict[str, int] = {}
        for index, table in enumerate(written):
            place = _Place(scope.block, index)
            table = {key: self._value(key, value, scope, place) for key, value in table.items()}
            op = table.get("op")
            if not isinstance(op, str):
                self._fail("op", f"is {op!r}; wanted the name of an operation or a block", place=place)
            counts[op] = counts.get(op, 0) + 1
            name = table.get("name", f"{op}{counts[op]}")
            if not isinstance(name, str) or not name or (name == "input" and op != "input"):
                self._fail("name", f"is {name!r}; wanted a string, not 'input'", place=place)
            if name in scope.names:
                self._fail("name", f"there are two layers {name!r}", place=place)
            inputs = self._inputs(table, scope, place)
            if op in self.document.get("blocks", {}):
                last = self._use_block(op, name, table, inputs, scope, place)
            else:
                last = self._add(op, name, table, inputs, scope, place)
            scope.names[name] = scope.previous = last

    def _inputs(self, table: dict[str, Any], scope: _Scope, place: _Place) -> tuple[str, ...]:
        names = table.get("inputs")
        if names is None:
            if table["op"] == "input":
                return ()
            if scope.previous is None:
                self._fail("op", 'the first layer must be an input: op = "input"', place=place)
            return (scope.previous,)
        if not _strings(names):
            self._fail("inputs", f"is {names!r}; wanted a list of names of layers", place=place)
        for name in names:
            if name not in scope.names:
                known = ", ".join(scope.names) or "none"
                self._fail("inputs", f"names {name!r}; the layers before it are {known}", place=place)
        return tuple(scope.names[name] for name in names)

    def _use_block(
        self, block: str, name: str, table: dict[str, Any], inputs: tuple[str, ...], scope: _Scope, place: _Place
    ) -> str:
        """Write a block out, `repeat` times in a row; return the name of its last layer."""
        definition = self.document["blocks"][block]
        if scope.depth >= DEEPEST_BLOCKS:
            self._fail("op", f"block {block!r} uses itself, or blocks lie more than {DEEPEST_BLOCKS} deep", place=place)
        if len(inputs) != 1:
            self._fail("inputs", f"has {len(inputs)} names; a block has one input", place=place)
        repeat, first = table.get("repeat", 1), table.get("first", 0)
        for key, value, least in (("repeat", repeat, 1), ("first", first, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST_LAYERS:
                self._fail(key, f"is {value!r}; wanted an int of at least {least}", place=place)
        given = {key: value for key, value in table.items() if key not in (*_LAYER_KEYS, *_REPEAT_KEYS)}
        written = self._list(definition, block)
        used = set(_references(written))
        for key in given:
            if key not in used:
                self._fail(
                    key, f"block {block!r} has no ${key}; it has {', '.join(sorted(used)) or 'none'}", place=place
                )
        last = inputs[0]
        for number in range(first, first + repeat):
            prefix = f"{scope.prefix}{name}." + (f"{number}." if "repeat" in table else "")
            inner = _Scope(
                block, prefix, {**definition.get("defaults", {}), **given}, {"input": last}, last, scope.depth + 1
            )
            missing = sorted(used - set(inner.values))
            if missing:
                self._fail("op", f"block {block!r} wants {', '.join(missing)}", place=place)
            self._expand(written, inner)
            assert inner.previous is not None
            last = inner.previous
        return last

    def _add(
        self, op: str, name: str, table: dict[str, Any], inputs: tuple[str, ...], scope: _Scope, place: _Place
    ) -> str:
        full = scope.prefix + name
        if len(full) > LONGEST_NAME:
            self._fail(
                "name",
                f"is {name[:20]!r}..., with its blocks of {len(full)} characters; at most {LONGEST_NAME}",
                place=place,
            )
        self.places[full] = place
        shares = table.get("shares")
        if shares is not None and not isinstance(shares, str):
            self._fail("shares", f"is {shares!r}; wanted the name of a layer", place=place)
        if len(self.layers) >= MOST_LAYERS:
            self._fail("op", f"there are more than {MOST_LAYERS} layers, with the blocks written out", place=place)
        shared = None if shares is None else scope.names.get(shares, shares)
        self.layers.append(Layer(full, self._operation(op, table, place), inputs, shared))
        return full

    def _operation(self, op: str, table: dict[str, Any], place: _Place) -> Operation:
        preset: dict[str, Any] = {}
        found: type[Operation] = Activation
        if op in FUNCTIONS:
            preset["function"] = op
        elif op in OPERATIONS:
            found = OPERATIONS[op]
        else:
            known = ", ".join([*OPERATIONS, *FUNCTIONS, *self.document.get("blocks", {})])
            self._fail("op", f"there is no operation {op!r}; wanted one of {known}", place=place)
        allowed = {each.name: each for each in fields(found) if each.name not in preset}
        given = {key: value for key, value in table.items() if key not in _LAYER_KEYS}
        for key, value in given.items():
            if key not in allowed:
                self._fail(key, f"{op} has no such key; it has {', '.join(allowed)}", place=place)
            wanted = _wanted(allowed[key].default, value)
            if wanted:
                self._fail(key, f"is {value!r}; wanted {wanted}", place=place)
        for key, each in allowed.items():
            if each.default is MISSING and key not in given:
                self._fail("op", f"{op} wants {key}", place=place)
        return found(**preset, **{key: _tuples(value) for key, value in given.items()})

    def _value(self, key: str, value: Any, scope: _Scope, place: _Place) -> Any:
        """Return a layer's value, with those of the block filled in, which may be lists, too."""
        filled = self._filled(key, value, scope, place)
        if sum(1 for _ in itertools.islice(_leaves(filled), MOST_VALUES + 1)) > MOST_VALUES and key != "inputs":
            self._fail(key, f"holds more than {MOST_VALUES} numbers and names", place=place)
        return filled

    def _filled(self, key: str, value: Any, scope: _Scope, place: _Place) -> Any:
        """Put a block's values where the layer says ``"$name"``."""
        if isinstance(value, list):
            return [self._filled(key, item, scope, place) for item in value]
        if isinstance(value, str) and value.startswith("$"):
            if value[1:] not in scope.values:
                where = "outside a block" if scope.block is None else f"in block {scope.block!r}"
                self._fail(key, f"is {value!r}, and there is no such value {where}", place=place)
            return scope.values[value[1:]]
        return value

    def _known(self, table: dict[str, Any], keys: tuple[str, ...], block: str | None) -> None:
        for key in table:
            if key not in keys:
                self._fail(key, f"no such key here; wanted {', '.join(keys)}", block=block)

    def _fail(
        self, key: str | None, message: str, *, place: _Place | None = None, block: str | None = None
    ) -> NoReturn:
        raise self._error(key, message, place, block)

    def _error(self, key: str | None, message: str, place: _Place | None, block: str | None = None) -> NetworkError:
        section = place.block if place else block
        line = line_of(self.text, section, None if place is None else place.index, key)
        shown = f"{key}: " if key else ""
        return NetworkError(f"{self.file}:{line}: {shown}{message}", key=key)


def _wanted(default: Any, value: Any) -> str:
    """Return what a key takes, by its default, where `value` is of another kind."""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(value, bool):
        return "a number, a list or a name"
    if isinstance(default, float):
        return "" if isinstance(value, int | float) else f"a number such as {default}"
    if isinstance(default, str):
        return "" if isinstance(value, str) else f"a string such as {default!r}"
    return ""


def _references(value: Any) -> Iterator[str]:
    """Yield the names after ``$`` anywhere in a list of layers."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _references(item)
    elif isinstance(value, str) and value.startswith("$"):
        yield value[1:]


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what is in a list, and in the lists within it; a list with nothing in it counts as one."""
    if isinstance(value, list) and value:
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _strings(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
