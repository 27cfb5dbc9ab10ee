"""The command line: what it prints and writes, and that every mistake is one line, status 2, and no file."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import stridekit as sk
from stridekit import __main__ as command
from stridekit.cli import app, run
from stridekit.compare.images import zone_plate
from stridekit.compare.saving import check_free, written_before
from stridekit.problems.geometry import conv_geometry
from stridekit.report.axes import describe_axis, draw_axis
from stridekit.report.comparisons import tables_of

QUICK = ("--backend", "reference", "--repeats", "1", "--filters", "2")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STRIDEKIT_BACKEND", raising=False)
    return tmp_path


@pytest.fixture
def picture(folder):
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "picture.png")
    return "picture.png"


def invoke(*arguments):
    return CliRunner().invoke(app, list(arguments))


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_compare_names_the_device_first_then_prints_every_stride_and_writes_its_files(folder, picture):
    result = invoke("compare", picture, "--strides", "1,2,2x1", *QUICK, "--json", "r.json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Device: reference: ")
    assert "asked for by argument" in lines[0]
    assert sum(line.strip().startswith("2x1") for line in lines) == 2
    assert "…" not in result.stdout
    assert "Recommendation" in lines
    wanted = ["comparison.json", "costs.png", "feature-maps.png"]
    wanted += [f"feature-maps-stride-{name}.png" for name in ("1", "2", "2x1")]
    assert files(folder) == sorted([picture, "r.json", *(f"stride-comparison/{name}" for name in wanted)])
    for name in ("r.json", *wanted):
        assert name in result.stdout
    stored = json.loads((folder / "r.json").read_text(encoding="utf-8"))
    assert stored == json.loads((folder / "stride-comparison" / "comparison.json").read_text(encoding="utf-8"))
    assert [row["stride"] for row in stored["rows"]] == [[1, 1], [2, 2], [2, 1]]
    assert [row["output_size"] for row in stored["rows"]] == [[30, 40], [15, 20], [15, 40]]


@pytest.mark.usefixtures("undrawn")
def test_compare_says_what_speed_is_compared_with_if_stride_1_was_not_asked_for(picture):
    result = invoke("compare", picture, "--strides", "2", *QUICK)
    assert "Speedup is over stride 1, measured as the baseline" in result.stdout
    assert "Speedup is over" not in invoke("compare", picture, "--strides", "1", *QUICK).stdout


@pytest.mark.usefixtures("undrawn")
def test_pooling_and_backward_are_compared_when_asked(folder, picture):
    plain = invoke("compare", picture, "--strides", "1,2", *QUICK)
    assert plain.exit_code == 0
    assert "Ways to shrink" not in plain.stdout
    asked = invoke("compare", picture, "--strides", "1,2", *QUICK, "--pooling", "--backward")
    assert asked.exit_code == 0, asked.stderr
    lines = [line.split() for line in asked.stdout.splitlines()]
    for name in ("conv", "max_pool", "avg_pool", "blur_pool"):
        assert sum(line[:2] == ["2", name] for line in lines) == 2
    assert "…" not in asked.stdout
    assert "alternatives.png" in asked.stdout
    stored = json.loads((folder / "stride-comparison/comparison.json").read_text(encoding="utf-8"))
    assert [row["alternative"] for row in stored["alternatives"]] == ["conv", "max_pool", "avg_pool", "blur_pool"]
    assert all(row["output_size"] == [15, 20] and row["training"]["time_s"] > 0 for row in stored["alternatives"])
    alone = invoke("compare", picture, "--strides", "1,2", *QUICK, "--no-pooling", "--backward")
    assert "training step" in alone.stdout
    assert "max_pool" not in alone.stdout


@pytest.mark.parametrize("columns", ["20", "80"])
@pytest.mark.usefixtures("undrawn")
def test_no_number_is_cut_off_when_piped(picture, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    result = invoke("compare", picture, "--strides", "1,10x3", *QUICK)
    (row,) = [line for line in result.stdout.splitlines() if line.strip().startswith("10x3") and "MiB" not in line][:1]
    assert "3x14" in row
    assert "…" not in result.stdout


@pytest.mark.parametrize("columns", [30, 80])
def test_a_narrow_terminal_folds_numbers_and_never_cuts_them(columns):
    comparison = sk.compare_strides(
        zone_plate(64), (1, (16, 10)), filters=2, repeats=1, backend="reference",
        alternatives=("conv", "blur_pool"), backward=True,
    )  # fmt: skip
    console = Console(width=columns, file=io.StringIO())
    for table in tables_of(comparison):
        console.print(table)
    text = console.file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= columns


@pytest.mark.usefixtures("undrawn")
def test_compare_takes_weights_and_asymmetric_padding(folder, picture):
    np.save("w.npy", np.random.default_rng(0).standard_normal((3, 3, 5, 3)))
    result = invoke(
        "compare", picture, "--weights", "w.npy", "--padding", "3:2,1", "--strides", "2",
        "--backend", "reference", "--repeats", "1", "--output", "deep/out",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    stored = json.loads((folder / "deep/out/comparison.json").read_text(encoding="utf-8"))
    assert stored["layer"]["weight_shape"] == [3, 3, 5, 3]
    assert stored["layer"]["padding"] == [[3, 2], [1, 1]]
    geometry = conv_geometry((30, 40), kernel_size=(5, 3), stride=2, padding=((3, 2), 1))
    assert stored["rows"][0]["output_size"] == list(geometry.output_size)


@pytest.mark.usefixtures("undrawn")
def test_the_environment_chooses_the_backend(picture, monkeypatch):
    monkeypatch.setenv("STRIDEKIT_BACKEND", "reference")
    result = invoke("compare", picture, "--strides", "2", "--repeats", "1", "--filters", "1")
    assert "STRIDEKIT_BACKEND" in result.stdout.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["missing.jpg"], "missing.jpg"),
        (["text.jpg"], "text.jpg"),
        (["picture.png", "--strides", "0"], "--strides"),
        (["picture.png", "--strides", "-2"], "--strides"),
        (["picture.png", "--strides", "1,,2"], "--strides"),
        (["picture.png", "--strides", "1,two"], "two"),
        (["picture.png", "--strides", "1x2x3"], "1x2x3"),
        (["picture.png", "--strides", ""], "--strides"),
        (["picture.png", "--strides", "1.5"], "1.5"),
        (["picture.png", "--kernel", "50", "--padding", "0"], "kernel_size 50"),
        (["picture.png", "--kernel", "0"], "--kernel"),
        (["picture.png", "--filters", "0"], "filters is 0"),
        (["picture.png", "--dtype", "float99"], "float99"),
        (["picture.png", "--dtype", "int8"], "int8"),
        (["picture.png", "--padding", "-1"], "--padding"),
        (["picture.png", "--padding", "1:-1,0"], "--padding"),
        (["picture.png", "--padding", "wide"], "wide"),
        (["picture.png", "--padding", "1,2,3"], "padding"),
        (["picture.png", "--backend", "tpu"], "tpu"),
        (["picture.png", "--max-aliased-energy", "2"], "max_aliased_energy"),
        (["picture.png", "--repeats", "0"], "repeats"),
        (["picture.png", "--output", "text.jpg"], "text.jpg"),
        (["picture.png", "--output", "text.jpg/deeper"], "text.jpg"),
        (["picture.png", "--output", "/proc/nowhere"], "/proc/nowhere"),
        (["picture.png", "--json", "nowhere/r.json"], "nowhere"),
        (["picture.png", "--json", "."], "--json"),
        (["picture.png", "--max-aliased-energy", "nan"], "max_aliased_energy"),
        (["picture.png", "--chart"], "--chart"),
        (["picture.png", "--strides", "1", "--pooling"], "--pooling"),
        (["picture.png", "--strides", "1,1x1", "--backward"], "--backward"),
        (["\udcff.png"], "\\xff.png: no such file"),
        (["a\nb[red].png"], "a\\nb[red].png: no such file"),
        (["\x1b[31m.png"], "\\x1b[31m.png: no such file"),
        (["x" * 5000], "wanted a path"),
        (["picture.png", "--output", "foreign"], "costs.png"),
        (["picture.png", "--output", "broken"], "comparison.json"),
        (["picture.png", "--weights", "missing.npy"], "missing.npy"),
        (["picture.png", "--weights", "text.jpg"], "text.jpg"),
        (["picture.png", "--weights", "objects.npy"], "pickled"),
        (["picture.png", "--weights", "cut.npy"], "cut.npy"),
        (["picture.png", "--weights", "grey.npy"], "(2, 1, 3, 3)"),
        (["picture.png", "--weights", "flat.npy"], "(3, 3)"),
        (["picture.png", "--weights", "integers.npy"], "int64"),
        (["picture.png", "--weights", "grey.npy", "--kernel", "3"], "--weights"),
    ],
)
def test_every_mistake_is_one_line_on_stderr_with_status_2_and_nothing_written(folder, picture, arguments, names):
    (folder / "text.jpg").write_text("not a picture, not an array")
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    np.save("grey.npy", np.ones((2, 1, 3, 3)))
    np.save("flat.npy", np.ones((3, 3)))
    np.save("integers.npy", np.ones((2, 3, 3, 3), np.int64))
    for name, file in (("foreign", "costs.png"), ("broken", "comparison.json")):
        (folder / name).mkdir()
        (folder / name / file).write_text('{"rows": []}')
    (folder / "cut.npy").write_bytes((folder / "grey.npy").read_bytes()[:150])
    before = files(folder)
    result = invoke("compare", *arguments)
    assert result.exit_code == 2
    assert names in result.stderr
    assert result.stderr.startswith("stridekit: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    assert files(folder) == before
    assert not (folder / "stride-comparison").exists()


@pytest.mark.parametrize(
    "arguments", [["compare", "--nonsense"], ["compare", "--filters", "x"], ["nonsense"], ["shape", "224"]]
)
def test_wrong_usage_is_one_line_and_status_2(folder, arguments, capsys):
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("stridekit: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert invoke(*arguments).exit_code == 2


def test_shape_prints_the_formula_with_its_numbers():
    result = invoke("shape", "224", "--kernel", "7", "--stride", "2", "--padding", "3")
    assert result.exit_code == 0
    assert "floor((224 + 3 + 3 - 1 * (7 - 1) - 1) / 2) + 1 = floor(223 / 2) + 1 = 112" in result.stdout
    assert "remainder: 1 " in result.stdout
    assert "dropped:   0 " in result.stdout
    assert "out 111" in result.stdout


def test_shape_takes_two_axes_names_and_dilation():
    result = invoke("shape", "224x320", "--kernel", "3x5", "--stride", "2x1", "--padding", "same", "--dilation", "2")
    geometry = conv_geometry((224, 320), kernel_size=(3, 5), stride=(2, 1), padding="same", dilation=2)
    assert "224x320 -> {}x{}".format(*geometry.output_size) in result.stdout
    assert "\nrows\n" in result.stdout
    assert "\ncolumns\n" in result.stdout
    assert invoke("shape", "8x8", "--kernel", "3").stdout.count("floor((8 + 0 + 0 - 1 * (3 - 1) - 1) / 1)") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["0", "--kernel", "3"],
        ["abc", "--kernel", "3"],
        ["5", "--kernel", "7"],
        ["5", "--kernel", "3", "--stride", "0"],
        ["5", "--kernel", "3", "--padding", "-1"],
        ["5", "--kernel", "3x3"],
        ["5x5x5", "--kernel", "3"],
    ],
)
def test_shape_refuses_what_fits_nothing_in_one_line(arguments):
    result = invoke("shape", *arguments)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


DRAWN = [
    (size, kernel, dilation, stride, before, after)
    for size in (1, 7, 20, 64, 300)
    for kernel, dilation in ((1, 1), (3, 1), (3, 2), (2, 5), (40, 1))
    for stride in (1, 2, 4, 9, 100)
    for before, after in ((0, 0), (3, 1), (0, 45))
    if dilation * (kernel - 1) + 1 <= size + before + after
]


@pytest.mark.parametrize(("size", "kernel", "dilation", "stride", "before", "after"), DRAWN)
def test_the_drawing_shows_each_tap_where_it_is(size, kernel, dilation, stride, before, after):
    padding = ((before, after),)
    geometry = conv_geometry(size, kernel_size=kernel, stride=stride, padding=padding, dilation=dilation)
    axis = geometry.axes[0]
    head, *windows = draw_axis(axis)
    assert max(map(len, [head, *windows])) <= 80
    start = head.index(next(mark for mark in head[5:] if mark != " "), 5)
    drawn, cut, tail = head[start:].partition(" ... ")
    places = {start + i: i - before for i in range(len(drawn))}
    first_of_tail = axis.padded_size - len(tail) - before
    places |= {start + len(drawn) + len(cut) + i: first_of_tail + i for i in range(len(tail))}
    for column, pixel in places.items():
        inside = 0 <= pixel < size
        assert head[column] == ("-" if not inside else "o" if axis.outputs_reading(pixel) else "x")
    shown = [line for line in windows if line.startswith("out")]
    assert shown[0].split()[1] == "0"
    assert shown[-1].split()[1] == str(axis.output_size - 1)
    for line in shown:
        taps = {places[column] for column, mark in enumerate(line) if column >= start and mark == "#"}
        assert taps == set(axis.input_window(int(line.split()[1]))) & set(places.values())


@pytest.mark.parametrize("stride", [1, 3, 5, 8])
def test_the_description_counts_dropped_and_skipped_pixels(stride):
    axis = conv_geometry(23, kernel_size=3, stride=stride, padding=((1, 0),), dilation=2).axes[0]
    text = "\n".join(describe_axis(axis))
    read = {pixel for output in range(axis.output_size) for pixel in axis.input_window(output)}
    unread = [pixel for pixel in range(23) if pixel not in read]
    dropped = [pixel for pixel in unread if pixel > max(read)]
    assert f"dropped:   {len(dropped)} " in text
    skipped = len(unread) - len(dropped)
    assert f"skipped:   {skipped} pixel" in text


def test_info_names_every_backend_and_why_one_is_missing():
    result = invoke("info")
    assert result.exit_code == 0
    for status in sk.backends.backend_status():
        assert status.name in result.stdout
        assert (status.device if status.available else status.reason) in result.stdout
        assert (status.cache_dir or "") in result.stdout


def test_version_and_help():
    assert invoke("--version").stdout == f"stridekit {sk.__version__}\n"
    for arguments in (["--help"], ["compare", "--help"], ["shape", "--help"], ["info", "--help"]):
        result = invoke(*arguments)
        assert result.exit_code == 0
        assert "stridekit" in result.stdout


def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "typer" else object())
    assert command.main() == 2
    captured = capsys.readouterr()
    assert captured.err == "stridekit: the command line needs typer: pip install '.[cli]' in the clone\n"
    assert captured.out == ""


class Hidden:
    """Something among the importers that refuses some modules, with the error that it is given."""

    def __init__(self, error, *names):
        self.error, self.names = error, names

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise self.error


@pytest.fixture
def hide(monkeypatch):
    def hidden(error, *names):
        for loaded in list(sys.modules):
            if loaded.split(".")[0] in names:
                monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setattr(sys, "meta_path", [Hidden(error, *names), *sys.meta_path])

    return hidden


@pytest.mark.parametrize("name", command.NEEDED)
@pytest.mark.parametrize("error", [ModuleNotFoundError("hidden"), ImportError("no library")], ids=["missing", "broken"])
def test_an_extra_that_cannot_be_imported_is_one_line(hide, capsys, name, error):
    hide(error, name)
    assert command.main() == 2
    captured = capsys.readouterr()
    assert captured.err == f"stridekit: the command line needs {name}: pip install '.[cli]' in the clone\n"


def test_a_command_line_that_breaks_on_import_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "stridekit.cli", None)
    assert command.main() == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("stridekit: the command line needs stridekit.cli (import of stridekit.cli halted")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("missing", "error", "arguments", "message"),
    [
        ("onnx", ModuleNotFoundError("no", name="onnx"), ("network", "a.onnx"), "onnx: pip install '.[onnx]' in"),
        ("onnx", ImportError("no\nlibrary"), ("network", "a.onnx"), "onnx, which cannot be imported (no library)"),
        ("PIL", ModuleNotFoundError("no", name="PIL"), ("compare", "a.png"), "needs Pillow: pip install '.[cli]'"),
        ("matplotlib", ModuleNotFoundError("no", name="matplotlib"), ("compare",), "needs matplotlib: pip install"),
        ("matplotlib", ImportError("broken"), ("compare", "--chart", "--strides", "1", *QUICK),
         "StrideComparison.save needs matplotlib, which cannot be imported (broken): pip install '.[cli]'"),
    ],
)  # fmt: skip
def test_a_library_that_is_missing_is_named_with_how_to_get_it(
    folder, hide, capsys, missing, error, arguments, message
):
    hide(error, missing)
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("stridekit: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert files(folder) == []


def test_a_missing_library_is_ours_and_pythons_error(hide):
    hide(ModuleNotFoundError("no", name="onnx"), "onnx")
    with pytest.raises(sk.MissingExtraError, match="needs onnx") as caught:
        sk.networks.load("a.onnx")
    assert isinstance(caught.value, ModuleNotFoundError)
    assert caught.value.name == "onnx"


def test_a_strange_name_of_a_picture_and_of_a_folder_is_shown_and_stored_as_text(folder, picture):
    # Bytes that are not UTF-8, letters that fonts lack, a line's end, markup, an unfinished formula, a colour.
    name = "\udcff\u65e5\n[red]$x_{$\x1b[31m.png"
    os.rename(picture, name)
    result = invoke("compare", name, "--strides", "1", *QUICK, "--output", f"out{name}", "--json", f"{name}.json")
    assert result.exit_code == 0, result.stderr
    shown = "\\xff\u65e5\\n[red]$x_{$\\x1b[31m.png"
    lines = result.stdout.splitlines()
    assert f"Picture: {shown}, 30x40 pixels, 3 channels" in [line.rstrip() for line in lines]
    assert f"Wrote out{shown}/comparison.json" in lines
    assert lines[-1].strip() == f"{shown}.json"
    stored = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert stored["image"]["name"] == shown
    assert len(list((folder / f"out{name}").iterdir())) == 4


def test_only_files_of_an_earlier_comparison_are_removed_or_replaced(folder, picture, monkeypatch):
    # Not the pictures are the subject, and they take a second each.
    monkeypatch.setattr(Figure, "savefig", lambda self, path: path.write_bytes(b"a picture"))
    foreign = folder / "stride-comparison" / "feature-maps-stride-77.png"
    foreign.parent.mkdir()
    foreign.write_text("mine")
    (foreign.parent / "alternatives.png").write_text("mine")
    for strides, theirs in (("1,2", {"1", "2"}), ("1,3x2", {"1", "3x2"})):
        assert invoke("compare", picture, "--strides", strides, *QUICK).exit_code == 0
        maps = {f"feature-maps-stride-{name}.png" for name in theirs}
        assert {path.name for path in foreign.parent.iterdir()} == {
            "comparison.json", "costs.png", "feature-maps.png", "alternatives.png", foreign.name, *maps
        }  # fmt: skip
    assert foreign.read_text() == (foreign.parent / "alternatives.png").read_text() == "mine"
    before = {path: path.read_bytes() for path in foreign.parent.iterdir()}
    for refused, name in ((("--strides", "77"), foreign.name), (("--strides", "2", "--backward"), "alternatives.png")):
        result = invoke("compare", picture, *refused, *QUICK)
        assert result.exit_code == 2
        assert f"stride-comparison/{name} is there, and no comparison.json beside it says" in result.stderr
    assert {path: path.read_bytes() for path in foreign.parent.iterdir()} == before


@pytest.mark.parametrize("content", ["", "[]", "{", '{"versions": 1}', '{"versions": {"stridekit": "1"}, "rows": [5]}'])
def test_a_json_of_another_program_says_nothing_of_the_files_beside_it(tmp_path, content):
    (tmp_path / "comparison.json").write_text(content)
    assert written_before(tmp_path) == frozenset()
    with pytest.raises(FileExistsError, match=r"comparison\.json is there"):
        check_free(tmp_path, ["costs.png", "comparison.json"])


def test_the_installed_command_compares_and_fails_as_promised(folder, picture):
    # Where the locale is ASCII, Python reads names in UTF-8 as bytes of no meaning; the picture keeps its name.
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    environment = os.environ | {"STRIDEKIT_BACKEND": "reference", **locale}
    os.rename(picture, "\xe9.png")
    command_line = [sys.executable, "-m", "stridekit", "compare"]
    options = {"capture_output": True, "text": True, "env": environment, "cwd": folder, "check": False}
    line = [*command_line, "\xe9.png", "--strides", "1,4", "--repeats", "1", "--filters", "2", "--output", "\xf6"]
    good = subprocess.run(line, **options)
    assert (good.returncode, good.stderr) == (0, "")
    stored = json.loads((folder / "\xf6" / "comparison.json").read_text(encoding="utf-8"))
    assert stored["image"]["name"] == "\xe9.png"
    assert good.stdout.startswith("Device: reference: ")
    bad = subprocess.run([*command_line, "\xe9.png", "--strides", "0"], **options)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.count("\n") == 1


def test_importing_stridekit_imports_no_library_but_numpy():
    code = (
        "import sys, stridekit; "
        "print([n for n in ('numba', 'matplotlib', 'PIL', 'rich', 'typer', 'torch', 'cupy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
