"""Network files: what they may say, and mistakes in them, each named by file, line and key."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import stridekit as sk
import stridekit.networks as networks
from stridekit.networks import Network, NetworkError
from stridekit.networks.operations import OPERATIONS
from tests.kit.thinning import every

VALID = """\
name = "small"
source = "a test"
outputs = ["mask", "scores"]

layers = [
  {name = "image", op = "input", size = [4, 16, 16]},
  {name = "conv1", op = "conv", out_channels = 8, kernel_size = 3, padding = 1},
  {name = "relu1", op = "relu"},
  {name = "stage", op = "residual", width = 8, repeat = 2},
  {name = "pool", op = "max_pool", kernel_size = 2, stride = 2},
  {name = "conv2", op = "conv", out_channels = 8, kernel_size = 3, padding = 1, groups = 4},
  {name = "conv3", op = "conv", shares = "conv2", out_channels = 8, kernel_size = 3, padding = 1, groups = 4},
  {name = "up", op = "upsample", inputs = ["conv3", "relu1"], mode = "linear"},
  {name = "both", op = "concat", inputs = ["up", "relu1"]},
  {name = "mask", op = "conv", out_channels = 2, kernel_size = 1},
  {name = "mean", op = "global_avg_pool", inputs = ["both"]},
  {name = "flat", op = "flatten"},
  {name = "scores", op = "linear", out_features = 10},
]

[blocks.residual]
defaults = {kernel = 3, pad = 1}
layers = [
  {name = "conv", op = "conv", out_channels = "$width", kernel_size = "$kernel", padding = "$pad", bias = false},
  {name = "bn", op = "batch_norm", epsilon = 1e-3},
  {op = "add", inputs = ["bn", "input"]},
]
"""

# What is written, what is written instead, the line and the key that the message names, and a word of it.
MISTAKES = {
    "unknown operation": ('"max_pool", kernel_size = 2', '"maxpool", kernel_size = 2', 10, "op", "max_pool"),
    "unknown key": ("stride = 2", "strides = 2", 10, "strides", "stride"),
    "key that is filled in": ("stride = 2", "kernel = 2", 10, "kernel", "no such key"),
    "missing key": ("out_channels = 8, kernel_size = 3, padding = 1}", "kernel_size = 3}", 7, "op", "out_channels"),
    "missing op": ('{op = "add", ', "{", 26, None, "op"),
    "op that is a number": ('"relu"', "3", 8, "op", "wanted the name"),
    "number for a string": ('"linear"}', "1}", 13, "mode", "string"),
    "channels that the input has not": ("1e-3", "1e-3, channels = 7", 25, "op", "the parameters are for 7"),
    "string for a number": ("1e-3", '"small"', 25, "epsilon", "number"),
    "string for an int": ("kernel_size = 2", 'kernel_size = "two"', 10, "kernel_size", "wanted an int"),
    "float for an int": ("stride = 2", "stride = 1.5", 10, "stride", "1.5"),
    "number for a boolean": ("bias = false", "bias = 0", 24, "bias", "true or false"),
    "boolean for an int": (
        'groups = 4},\n  {name = "conv3',
        'groups = true},\n  {name = "conv3',
        11,
        "groups",
        "wanted a number",
    ),
    "stride 0": ("stride = 2", "stride = 0", 10, "stride", "0"),
    "negative padding": ("kernel_size = 3, padding = 1}", "kernel_size = 3, padding = -1}", 7, "padding", "negative"),
    "no channels": (
        "out_channels = 8, kernel_size = 3, padding = 1}",
        "out_channels = 0, kernel_size = 3}",
        7,
        "out_channels",
        "0",
    ),
    "input that comes later": ('"up", "relu1"', '"up", "mask"', 14, "inputs", "mask"),
    "input that is not there": ('["both"]', '["bath"]', 16, "inputs", "bath"),
    "inputs that are no list": ('inputs = ["both"]', 'inputs = "both"', 16, "inputs", "list"),
    "inputs that are empty": ('inputs = ["both"]', "inputs = []", 16, "inputs", "list"),
    "one input too few": ('inputs = ["bn", "input"]', 'inputs = ["bn"]', 26, "inputs", "2 or more"),
    "one input too many": ('["conv3", "relu1"]', '["conv3", "relu1", "pool"]', 13, "inputs", "1 to 2"),
    "two inputs of a block": (
        "width = 8, repeat",
        'inputs = ["image", "relu1"], width = 8, repeat',
        9,
        "inputs",
        "one input",
    ),
    "two layers of one name": ('"conv3", op', '"conv2", op', 12, "name", "conv2"),
    "two of one name in a block": ('"bn", op', '"conv", op', 25, "name", "conv"),
    "name that is a number": ('"flat"', "7", 17, "name", "string"),
    "name that is taken": ('"flat"', '"input"', 17, "name", "input"),
    "block that uses itself": ('op = "batch_norm", epsilon = 1e-3', 'op = "residual", width = 8', 25, "op", "itself"),
    "block named as an operation": ("[blocks.residual]", "[blocks.relu]", 21, "relu", "operation"),
    "unknown value": ('"$width"', '"$wide"', 9, "width", "no $width"),
    "value outside a block": ("out_features = 10", 'out_features = "$classes"', 18, "out_features", "outside a block"),
    "missing value": (", width = 8", "", 9, "op", "width"),
    "value that the block has not": ("width = 8, ", "width = 8, depth = 3, ", 9, "depth", "depth"),
    "value of the wrong kind": ("width = 8, repeat", 'width = "8", repeat', 24, "out_channels", "8"),
    "repeat of 0": ("repeat = 2", "repeat = 0", 9, "repeat", "0"),
    "repeat that is a string": ("repeat = 2", 'repeat = "twice"', 9, "repeat", "twice"),
    "repeat without end": ("repeat = 2", "repeat = 1_000_000_000", 9, "repeat", "1000000000"),
    "first below 0": ("repeat = 2", "repeat = 2, first = -1", 9, "first", "-1"),
    "repeat of a layer": ('op = "relu"}', 'op = "relu", repeat = 2}', 8, "repeat", "no such key"),
    "not TOML": ("kernel_size = 2, stride", "kernel_size = 2 stride", 10, None, "not TOML"),
    "a key twice": ("stride = 2", "kernel_size = 2", 10, None, "not TOML"),
    "no input": (
        '{name = "image", op = "input", size = [4, 16, 16]}',
        '{name = "image", op = "relu"}',
        6,
        "op",
        "input",
    ),
    "input without a size": (", size = [4, 16, 16]", "", 6, "op", "size"),
    "input of no pixels": ("[4, 16, 16]", "[4, 0, 16]", 6, "size", "0"),
    "input that reads": ("size = [4, 16, 16]", 'size = [4, 16, 16], inputs = ["image"]', 6, "inputs", "image"),
    "shares of other shapes": (
        'out_channels = 8, kernel_size = 3, padding = 1, groups = 4},\n  {name = "up',
        'out_channels = 8, kernel_size = 5, padding = 2, groups = 4},\n  {name = "up',
        12,
        "shares",
        "other shapes",
    ),
    "shares of no layer": ('shares = "conv2"', 'shares = "conv9"', 12, "shares", "conv9"),
    "shares that is a number": ('shares = "conv2"', "shares = 2", 12, "shares", "name of a layer"),
    "groups that do not divide": (
        'padding = 1, groups = 4},\n  {name = "conv3',
        'padding = 1, groups = 3},\n  {name = "conv3',
        11,
        "groups",
        "divide",
    ),
    "concat of other sizes": ('"up", "relu1"', '"conv3", "relu1"', 14, "op", "one spatial size"),
    "sum of other channels": ("width = 8", "width = 6", 26, "op", "one shape"),
    "linear without flatten": ('{name = "flat", op = "flatten"}', '{name = "flat", op = "relu"}', 18, "op", "flatten"),
    "window larger than the image": ("kernel_size = 2, stride = 2", "kernel_size = 99", 10, "kernel_size", "99"),
    "unknown mode": ('"linear"}', '"cubic"}', 13, "mode", "cubic"),
    "outputs that are not there": ('["mask", "scores"]', '["mask", "score"]', 3, "outputs", "score"),
    "outputs that are no list": ('["mask", "scores"]', '"mask"', 3, "outputs", "mask"),
    "unknown key at the top": ('source = "a test"', 'sauce = "a test"', 2, "sauce", "source"),
    "source that is a number": ('"a test"', "2015", 2, "source", "string"),
    "unknown key of a block": ("defaults =", "default =", 22, "default", "defaults"),
    "defaults that are no table": ("{kernel = 3, pad = 1}", "3", 22, "defaults", "table"),
}


def failure(text: str) -> NetworkError:
    with pytest.raises(NetworkError) as caught:
        Network.parse(text, "net.toml")
    return caught.value


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_by_file_line_and_key(mistake: str) -> None:
    old, new, line, key, word = MISTAKES[mistake]
    assert VALID.count(old) == 1
    error = failure(VALID.replace(old, new))
    found = re.match(r"net\.toml:(\d+): (?:(\w+): )?(.*)", str(error), re.DOTALL)
    assert found, str(error)
    assert int(found[1]) == line, str(error)
    assert word in str(error)
    if key is not None:
        assert (found[2], error.key) == (key, key), str(error)


GATED = """\
layers = [
  {name = "image", op = "input", size = [4, 8, 8]},
  {name = "body", op = "conv", out_channels = 6, kernel_size = 3},
  {name = "mean", op = "global_avg_pool"},
  {name = "gate", op = "conv", out_channels = 6, kernel_size = 1},
  {name = "scaled", op = "multiply", inputs = ["body", "gate"]},
  {name = "flat", op = "flatten", inputs = ["gate"]},
]
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "words"),
    [
        ("out_channels = 6, kernel_size = 1", "out_channels = 1, kernel_size = 1", 6, "op",
         r"\(6, 6, 6\) and \(1, 1, 1\); wanted one shape, or a second one of \(6, 1, 1\)"),
        ('"global_avg_pool"', '"adaptive_avg_pool", output_size = 2', 6, "op", r"\(6, 2, 2\)"),
        ('["body", "gate"]', '["gate", "body"]', 6, "op", r"\(6, 1, 1\) and \(6, 6, 6\); wanted one shape"),
        ('["body", "gate"]', '["body", "image"]', 6, "op", r"\(4, 8, 8\)"),
        ('["body", "gate"]', '["body"]', 6, "inputs", "inputs has 1 names, multiply wants 2"),
        ('["body", "gate"]', '["body", "gate", "gate"]', 6, "inputs", "inputs has 3 names, multiply wants 2"),
        ('"scaled", op = "multiply"', '"scaled", initial = 1.0, op = "multiply"', 6, "initial", "no such key"),
        ('"gate"]},\n  {name = "flat", op = "flatten", inputs = ["gate"]}',
         '"gate"]},\n  {name = "flat", op = "flatten", inputs = ["gate"]},\n'
         '  {op = "multiply", inputs = ["body", "flat"]}', 8, "op", r"\(6,\); wanted one shape"),
    ],
)  # fmt: skip
def test_a_gate_of_another_shape_is_named_by_file_line_and_key(
    old: str, new: str, line: int, key: str, words: str
) -> None:
    assert Network.parse(GATED).features["scaled"].shape == (6, 6, 6)
    assert GATED.count(old) == 1
    error = failure(GATED.replace(old, new))
    assert str(error).startswith(f"net.toml:{line}: {key}: ")
    assert re.search(words, str(error)), str(error)


@pytest.mark.parametrize("name", every(5, networks.names()))
def test_a_mistake_in_any_layer_that_ships_is_found_on_its_line(name: str) -> None:
    lines = (Path(networks.__file__).parent / "presets" / f"{name}.toml").read_text().splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.startswith("  {"):
            wrong = [*lines[:number], line.replace("{", "{misspelt = 1, ", 1), *lines[number + 1 :]]
            error = failure("".join(wrong))
            assert str(error).startswith(f"net.toml:{number + 1}: misspelt: ")


WITH_TABLES = """\
name = "small"

[[layers]]
op = "input"
size = [4, 16]

[[layers]]
op = "conv"
out_channels = 8  # op = "not one"
kernel_size = 3
stride = 2

[[layers]]
op = "twice"
width = 4

[blocks.twice]

[[blocks.twice.layers]]
op = "conv"
out_channels = "$width"
kernel_size = 3

[[blocks.twice.layers]]
name = "op = two"
op = "relu"
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "key"),
    [
        ("stride = 2", "stride = 0", 11, "stride"),
        ("stride = 2", "strides = 2", 11, "strides"),
        ("size = [4, 16]", "size = [4, -1]", 5, "size"),
        ("width = 4", "wide = 4", 15, "wide"),
        ('op = "relu"', 'op = "rely"', 26, "op"),
        ('"$width"\nkernel_size = 3', '"$width"\nkernel_size = 0', 22, "kernel_size"),
        ('name = "op = two"\nop = "relu"', 'name = "op = two"', 24, "op"),
        ('op = "relu"', 'op = "relu"\ninputs = ["later"]', 27, "inputs"),
    ],
)
def test_a_mistake_is_found_among_tables_of_lines_too(old: str, new: str, line: int, key: str) -> None:
    assert WITH_TABLES.count(old) == 1
    error = failure(WITH_TABLES.replace(old, new))
    assert str(error).startswith(f"net.toml:{line}: {key}: ")


def test_both_styles_of_layers_make_the_same_network() -> None:
    inline = """
    layers = [
      {op = "input", size = [4, 16]},
      {op = "conv", out_channels = 8, kernel_size = 3, stride = 2},
      {op = "twice", width = 4},
    ]
    [blocks.twice]
    layers = [{op = "conv", out_channels = "$width", kernel_size = 3}, {name = "op = two", op = "relu"}]
    """
    assert Network.parse(inline).layers == Network.parse(WITH_TABLES).layers


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing yet\n", 'name = "nothing"\n', "layers = []", "layers = 3"])
def test_a_file_without_layers_is_refused(text: str) -> None:
    assert "needs a list of layers" in str(failure(text))


def test_blocks_that_use_each_other_are_refused() -> None:
    text = """layers = [{op = "input", size = [1, 4]}, {op = "a"}]
[blocks.a]
layers = [{op = "b"}]
[blocks.b]
layers = [{op = "a"}]
"""
    assert re.match(r"net\.toml:[35]: op: .* deep", str(failure(text)))


def test_blocks_cannot_grow_a_file_into_millions_of_layers() -> None:
    blocks = "".join(f'[blocks.b{n}]\nlayers = [{{op = "b{n + 1}", repeat = 1000}}]\n' for n in range(8))
    text = (
        f'layers = [{{op = "input", size = [1, 4]}}, {{op = "b0"}}]\n{blocks}[blocks.b8]\nlayers = [{{op = "relu"}}]\n'
    )
    assert "more than" in str(failure(text))


def test_a_block_s_layers_are_numbered_and_named_after_it() -> None:
    names = [layer.name for layer in Network.parse(VALID).layers]
    assert names[3:9] == [f"stage.{number}.{name}" for number in (0, 1) for name in ("conv", "bn", "add1")]


def test_a_missing_an_unreadable_and_an_unknown_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    for given_name in (path, tmp_path / "none.toml", tmp_path, "no such network"):
        with pytest.raises(NetworkError, match=re.escape(str(given_name))):
            networks.load(given_name) if given_name != tmp_path else Network.from_toml(tmp_path)


def test_a_file_is_read_in_whatever_way_its_lines_end(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes(VALID.replace("\n", "\r\n").encode())
    assert networks.load(path).layers == Network.parse(VALID).layers
    path.write_bytes(VALID.replace("stride = 2", "stride = 0").replace("\n", "\r\n").encode())
    with pytest.raises(NetworkError, match=r"windows\.toml:10: stride: "):
        networks.load(path)


def network_or_error(text: str) -> None:
    """Read a text and ask what there is to ask; nothing but a NetworkError may come of it."""
    try:
        network = Network.parse(text, "net.toml")
    except NetworkError as error:
        where = re.match(r"net\.toml:(\d+): ", str(error))
    else:
        where = re.match(r"(\d+)", str(network.summary().parameters))
        network.summary().to_json()
    assert where, text


PIECES = re.findall(r'"[^"]*"|[\w.$-]+|\S', VALID)
SCALARS = ["0", "1", "2", "3", "-1", "7", "1.5", "nan", "-inf", "true", '"x"', '""', '"$width"', '"$"', '"same"', "[]"]
ODD = ["[1, 2]", "[[1, 2], [0, 1]]", "{a = 1}", "[{a = 1}]", "1979-05-27", '["image"]', "[[]]", "1_000_000", '"input"']


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """The valid file with a few of its words, values or characters changed."""
    text = VALID
    for _ in range(draw(st.integers(1, 4))):
        spots = [found.span() for found in re.finditer(r'"[^"]*"|[\w.$-]+|\S', text)]
        start, stop = draw(st.sampled_from(spots))
        values = [found.span(1) for found in re.finditer(r"= (\[[^=]*?\]|\"[^\"]*\"|[\w.-]+)(?=[,}\n])", text)]
        how = draw(st.sampled_from(["value", "value", "word", "key", "drop", "insert"]))
        if how == "value" and values:
            start, stop = draw(st.sampled_from(values))
            text = text[:start] + draw(st.sampled_from(SCALARS + ODD)) + text[stop:]
        elif how == "word":
            text = text[:start] + draw(st.sampled_from(PIECES)) + text[stop:]
        elif how == "key":
            text = text[:start] + draw(st.sampled_from(["factor", "limit", "start", "ceil_mode"])) + text[stop:]
        elif how == "drop":
            text = text[:start] + text[stop:]
        else:
            text = text[:start] + draw(st.text(max_size=3)) + text[start:]
    return text


@given(mutated())
@example('layers = [{op = "input", size = [1, 4]}]\nblocks = 3')
@example('layers = [{op = "input", size = [1, 4]}]\n[blocks]\na = 3')
@example('layers = [{op = "input", size = [1, 4], samples = 0}]')
def test_a_malformed_file_is_a_network_or_an_error_that_names_a_line(text: str) -> None:
    network_or_error(text)


KINDS = {
    "conv": "out_channels = 4, kernel_size = 3",
    "conv_transpose": "out_channels = 4, kernel_size = 3",
    "max_pool": "kernel_size = 2",
    "avg_pool": "kernel_size = 2",
    "blur_pool": "",
    "adaptive_avg_pool": "output_size = 2",
    "batch_norm": "",
    "layer_norm": "",
    "scale": "",
    "upsample": "factor = 2",
    "slice": "start = 0, stop = 2",
    "linear": "out_features = 3",
    "clipped_relu": "",
    "leaky_relu": "",
}


EVERY = {"name", "op", "inputs", "shares", "repeat"}


@given(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(sorted({each.name for operation in OPERATIONS.values() for each in fields(operation)} | EVERY)),
    st.sampled_from(SCALARS + ODD),
)
def test_any_key_may_hold_any_value_without_a_crash(kind: str, key: str, value: str) -> None:
    given_keys = {"name": '"l"', "op": f'"{kind}"'}
    given_keys.update(part.split(" = ") for part in KINDS[kind].split(", ") if part)
    given_keys[key] = value
    layer = ", ".join(f"{name} = {held}" for name, held in given_keys.items())
    flat = ', {op = "flatten"}' if kind == "linear" else ""
    network_or_error(f'layers = [{{name = "image", op = "input", size = [4, 8, 8]}}{flat}, {{{layer}}}]')


def test_the_errors_are_stridekits_and_values_of_python() -> None:
    error = failure("")
    assert isinstance(error, sk.StridekitError)
    assert isinstance(error, ValueError)
