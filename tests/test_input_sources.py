"""Every way of naming universes and their parameters, right and wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from pipeline.config import load_recipe
from pipeline.errors import InputError, RecipeError
from pipeline.parameter_table import open_table, read_table
from pipeline.readers import open_snapshot
from pipeline.survey import survey
from pipeline.universes import UniverseInput, list_universes
from tests.conftest import Run
from tests.ensembles_made import write_ensemble, write_recipe
from tests.snapshots_made import random_positions, write_gadget_hdf5

IDS = ["u000", "u001", "u002"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three universes of two snapshots in sims/, and cosmology.csv."""
    write_ensemble(tmp_path, n_universes=3, n_particles=64)
    return tmp_path


def universes(root: Path, **inputs: Any) -> list[UniverseInput]:
    recipe = load_recipe(write_recipe(root, input=inputs))
    return list_universes(recipe, root)


def refused(root: Path, *parts: str, kind: type[Exception] = InputError, **inputs: Any) -> None:
    with pytest.raises(kind) as caught:
        universes(root, **inputs)
    for part in parts:
        assert part in str(caught.value)


def expected(root: Path) -> dict[str, dict[str, float]]:
    """Parameters by id, straight from cosmology.csv."""
    lines = (root / "cosmology.csv").read_text().splitlines()
    names = lines[0].split(",")[1:]
    rows = [line.split(",") for line in lines[1:]]
    return {row[0]: dict(zip(names, map(float, row[1:]), strict=True)) for row in rows}


def both_snapshots(root: Path, found: list[UniverseInput]) -> None:
    for universe in found:
        files = [[p.name for p in parts] for parts in universe.find()]
        assert files == [["snap_0.hdf5"], ["snap_1.hdf5"]]


# --- where universes are --------------------------------------------------------------------


@pytest.mark.parametrize(
    "places",
    [
        "sims/*/",
        "sims/u*",
        "sims",
        "sims/",
        ["sims/u000", "sims/u001", "sims/u002"],
        ["sims/u000", "sims/u00[12]"],
        ["sims/*", "sims/u001/"],
        "ABSOLUTE/sims",
        "ABSOLUTE/sims/*",
    ],
)
def test_folders(root: Path, places: Any) -> None:
    if isinstance(places, str):
        places = places.replace("ABSOLUTE", str(root))
    found = universes(root, universes=places, parameters="cosmology.csv")
    assert [u.id for u in found] == IDS
    assert {u.id: u.parameters for u in found} == expected(root)
    both_snapshots(root, found)


def test_hidden_folders_are_no_universes(root: Path) -> None:
    (root / "sims/.cache").mkdir()
    found = universes(root, universes="sims", parameters="cosmology.csv")
    assert [u.id for u in found] == IDS


def test_files_are_universes(root: Path) -> None:
    for name in IDS:
        shutil.copy(root / f"sims/{name}/snap_0.hdf5", root / f"{name}.hdf5")
    found = universes(root, universes="u*.hdf5", parameters="cosmology.csv")
    assert [(u.id, u.find()) for u in found] == [(n, [(root / f"{n}.hdf5",)]) for n in IDS]
    assert {u.id: u.parameters for u in found} == expected(root)


def test_files_of_one_id_are_one_universe(root: Path) -> None:
    for name in IDS:
        for number in range(2):
            source = root / f"sims/{name}/snap_{number}.hdf5"
            shutil.copy(source, root / f"{name}_z{number}.hdf5")
    pattern = "(?P<id>u[0-9]+)_z"
    found = universes(root, universes="u*.hdf5", id_pattern=pattern, parameters="cosmology.csv")
    assert [u.id for u in found] == IDS
    assert found[1].find() == [(root / "u001_z0.hdf5",), (root / "u001_z1.hdf5",)]
    surveyed = survey(found[1], load_recipe(root / "recipe.yaml"))
    assert [c.header.redshift for c in surveyed.channels] == [0.0, 1.0]


def test_parts_of_one_id_are_one_snapshot(tmp_path: Path) -> None:
    write_gadget_hdf5(tmp_path / "a.hdf5", random_positions(64), n_files=3)
    write_gadget_hdf5(tmp_path / "b.hdf5", random_positions(64, seed=2), n_files=3)
    (tmp_path / "c.csv").write_text("id,Omega_m,sigma_8,n_s\na,.3,.8,1\nb,.3,.8,1\n")
    found = universes(
        tmp_path, universes="*.hdf5", id_pattern=r"(?P<id>[ab])\.", parameters="c.csv"
    )
    assert [len(parts) for u in found for parts in u.find()] == [3, 3]


def test_ids_from_the_path(root: Path) -> None:
    shutil.copytree(root / "sims", root / "suite/LH_1/out")
    (root / "p.yaml").write_text("1: {Omega_m: .3, sigma_8: .8, n_s: 1}")
    found = universes(
        root, universes="suite/*/out", id_pattern="LH_(?P<id>[0-9]+)", parameters="p.yaml"
    )
    assert [u.id for u in found] == ["1"]


@pytest.mark.parametrize(
    ("inputs", "parts"),
    [
        ({"universes": "nothing/*"}, ["nothing/*: no folder matches input.universes"]),
        ({"universes": ["sims/u000", "sims/x*"]}, ["sims/x*: no folder matches"]),
        ({"universes": "sims/u000"}, ["sims/u000: no folder in it", "[u000]"]),
        ({"universes": "sims/**x"}, ["input.universes is no glob"]),
        ({"universes": "sims/*/*.hdf5"}, ["'snap_0' stands twice", "input.id_pattern"]),
        ({"universes": ["sims/*", "more/u000"]}, ["'u000' stands twice"]),
        ({"universes": "sims/*", "id_pattern": "(?P<id>x)"}, ["u000", "finds nothing in 'sims/"]),
        ({"universes": "sims/*", "id_pattern": "(?P<id>[0-9])"}, ["finds 0, 1 in 'sims/u001'"]),
        ({"universes": "sims/*", "id_pattern": "(?P<id>u00)"}, ["'u00' stands twice"]),
        (
            {"universes": "sims/*/snap_0.hdf5", "snapshots": "*", "id_pattern": "(?P<id>u...)"},
            ["input.universes names files", "input.snapshots"],
        ),
    ],
)
def test_places_that_are_wrong(root: Path, inputs: dict[str, Any], parts: list[str]) -> None:
    (root / "more/u000").mkdir(parents=True)
    refused(root, *parts, **{"parameters": "cosmology.csv", **inputs})


# --- tables of universes --------------------------------------------------------------------

ROW = {"Omega_m": 0.3, "sigma_8": 0.8, "n_s": 1.0}


def test_a_csv_table_with_several_globs(root: Path) -> None:
    (root / "t.csv").write_text(
        "id,files,Omega_m,sigma_8,n_s\nx,sims/u000/*_0.hdf5; sims/u001/*_1.hdf5,.3,.8,1\n"
    )
    [found] = universes(root, universes="t.csv")
    assert found.id == "x"
    assert found.parameters == ROW
    names = [parts[0].relative_to(root).as_posix() for parts in found.find()]
    assert names == ["sims/u000/snap_0.hdf5", "sims/u001/snap_1.hdf5"]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("files", ["sims/u000/*", ["sims/u000/snap_0.hdf5", "sims/u000/*_1.*"]])
def test_a_yaml_table(root: Path, nested: bool, files: Any) -> None:
    row = {"files": files, "parameters": ROW} if nested else {"files": files, **ROW}
    (root / "t.yaml").write_text(yaml.safe_dump({"x": row}))
    [found] = universes(root, universes="t.yaml")
    assert (found.id, found.parameters) == ("x", ROW)
    both_snapshots(root, [found])


def test_a_table_of_universes_with_parameters_elsewhere(root: Path) -> None:
    (root / "t.csv").write_text("id,files\n" + "".join(f"{n},sims/{n}/*\n" for n in IDS))
    found = universes(root, universes="t.csv", parameters="cosmology.csv")
    assert {u.id: u.parameters for u in found} == expected(root)


@pytest.mark.parametrize(
    "files", ["/etc/passwd", "../sims/*", "sims/../../x", ["sims/*", "../x"], "", [], [3]]
)
def test_files_that_lead_out_of_a_table(root: Path, files: Any) -> None:
    """Fault row 25."""
    (root / "t.yaml").write_text(yaml.safe_dump({"x": {"files": files, **ROW}}))
    refused(root, "t.yaml", "'x'", "files", universes="t.yaml")
    if isinstance(files, str):
        (root / "t.csv").write_text(f"id,files,Omega_m,sigma_8,n_s\nx,{files},.3,.8,1\n")
        refused(root, "t.csv", "'x'", "files", universes="t.csv")


def test_a_symbolic_link_out_of_a_universe(root: Path, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside")
    [other] = write_gadget_hdf5(outside / "s.hdf5", random_positions(64))
    (root / "link.hdf5").symlink_to(other)
    (root / "t.csv").write_text("id,files,Omega_m,sigma_8,n_s\nx,link.hdf5,.3,.8,1\n")
    for inputs in (
        {"universes": "t.csv"},
        {"universes": "link.hdf5", "parameters": "l.csv"},
    ):
        (root / "l.csv").write_text("id,Omega_m,sigma_8,n_s\nlink,.3,.8,1\n")
        [found] = universes(root, **inputs)
        with pytest.raises(InputError, match=r"link\.hdf5: leads to .*outside"):
            found.find()


# --- tables of parameters -------------------------------------------------------------------


def as_csv(path: Path, rows: dict[str, dict[str, float]]) -> Path:
    names = ["id", *next(iter(rows.values()))]
    lines = [",".join([i, *(repr(v) for v in row.values())]) for i, row in rows.items()]
    path = path.with_suffix(".csv")
    path.write_text("\ufeff" + "\n".join([",".join(names), *lines]), encoding="utf-8")
    return path


def as_yaml(path: Path, rows: dict[str, dict[str, float]]) -> Path:
    path.with_suffix(".yaml").write_text(yaml.safe_dump(rows))
    return path.with_suffix(".yaml")


def as_structured(path: Path, rows: dict[str, dict[str, float]]) -> Path:
    names = list(next(iter(rows.values())))
    dtype = [("id", "S8"), *((n, "f8") for n in names)]
    data = np.array([(i, *row.values()) for i, row in rows.items()], dtype)
    with h5py.File(path.with_suffix(".hdf5"), "w") as file:
        file["universes"] = data
    return path.with_suffix(".hdf5")


def as_columns(path: Path, rows: dict[str, dict[str, float]]) -> Path:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["id"] = list(rows)  # variable-length text
        for name in next(iter(rows.values())):
            file[name] = [row[name] for row in rows.values()]
    return path.with_suffix(".h5")


@pytest.mark.parametrize("write", [as_csv, as_yaml, as_structured, as_columns])
def test_every_kind_of_table_holds_the_same(
    root: Path, write: Callable[[Path, dict[str, dict[str, float]]], Path]
) -> None:
    path = write(root / "table", expected(root))
    found = universes(root, universes="sims/*", parameters=path.name)
    assert {u.id: u.parameters for u in found} == expected(root)


def test_whole_numbers_as_ids(root: Path) -> None:
    with h5py.File(root / "t.hdf5", "w") as file:
        file["id"] = np.arange(3)
        file["Omega_m"] = np.array([0.1, 0.2, 0.3])
    assert open_table(root / "t.hdf5").parameters("2") == {"Omega_m": 0.3}


def as_text(root: Path, rows: dict[str, dict[str, float]], heading: str = "") -> None:
    lines = [" ".join(repr(v) for v in row.values()) for row in rows.values()]
    (root / "params.txt").write_text("\n".join([heading, *lines, ""]))


NAMES = ["Omega_m", "sigma_8", "n_s"]


def test_a_plain_text_table_by_row_number(root: Path) -> None:
    as_text(root, expected(root), "#Omega_m sigma_8 n_s")
    found = universes(
        root,
        universes="sims/*",
        parameters="params.txt",
        parameter_names=NAMES,
        id_pattern="u(?P<id>[0-9]+)",
    )
    assert [u.id for u in found] == ["000", "001", "002"]
    assert [u.parameters for u in found] == list(expected(root).values())


@pytest.mark.parametrize(
    ("text", "inputs", "parts"),
    [
        ("1 2 3\n", {}, ["no row for universe '001' (has 1 rows from 0)"]),
        ("1 2 3\n1 2\n", {}, ["params.txt:2: 2 numbers, expected the 3 of input.parameter_names"]),
        ("1 2 3\n" * 2 + "1 x 3\n", {}, ["sigma_8 of universe '002' is 'x', expected a finite"]),
        ("# nothing\n", {}, ["holds no numbers"]),
        ("1 2 3\n" * 3, {"id_pattern": None}, ["'u000' is not a row number", "input.id_pattern"]),
        (
            "#n_s Omega_m sigma_8\n" + "1 2 3\n" * 3,
            {},
            ["the columns are n_s, Omega_m, sigma_8, but input.parameter_names"],
        ),
    ],
)
def test_plain_text_that_is_wrong(
    root: Path, text: str, inputs: dict[str, Any], parts: list[str]
) -> None:
    (root / "params.txt").write_text(text)
    given = {
        "universes": "sims/*",
        "parameters": "params.txt",
        "parameter_names": NAMES,
        "id_pattern": "u(?P<id>[0-9]+)",
        **inputs,
    }
    refused(root, "params.txt", *parts, **{k: v for k, v in given.items() if v is not None})


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["'id' among them"]),
        ("id,Omega_m\n", ["'id' among them"]),
        ("name,Omega_m\nu000,1\n", ["'id' among them"]),
        ("id,Omega_m,Omega_m\nu000,1,2\n", ["column 'Omega_m' stands twice"]),
        ("id,Omega_m\nu000,1,2\n", ["t.csv:2: 3 cells, expected 2"]),
        ("id,Omega_m\nu000,1\nu000,2\n", ["'u000' stands twice"]),
        ("id,Omega_m\n,1\n", ["'' is no id"]),
        ("id,Omega_m\n\x1b[31m,1\n", ["is no id"]),
        ('id,Omega_m\n"' + "x" * 200_000 + '",1\n', ["field larger than field limit"]),
    ],
)
def test_csv_that_is_wrong(tmp_path: Path, content: str, parts: list[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_table(path)
    for part in ("t.csv", *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["expected a mapping of universes"]),
        ("- 1\n", ["expected a mapping of universes"]),
        ("a: 3\n", ["t.yaml:1: universe 'a' is 3, expected a mapping"]),
        ("a: {x: 1}\na: {x: 2}\n", ["t.yaml:2: 'a' stands twice (first on line 1)"]),
        ("a: {x: 1, x: 2}\n", ["'x' stands twice"]),
        ("a: &m {x: 1}\nb: *m\n", ["t.yaml:2: aliases (*m) are not allowed"]),
        ("a: !!python/object:os.system {}\n", ["python/object:os.system is not allowed"]),
        ("a: {x: 1, parameters: {x: 2}}\n", ["not given beside it"]),
        ("a: {parameters: 3}\n", ["parameters is 3, expected a mapping"]),
        ("a: [\n", ["t.yaml:"]),
        ("a: {x: 1}\n" + "# " + "y" * (1 << 20), ["expected at most 1048576"]),
    ],
)
def test_yaml_that_is_wrong(tmp_path: Path, content: str, parts: list[str]) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_table(path)
    for part in ("t.yaml", *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize("cell", ["true", "[1]", "{}", ".inf", ".nan", "x"])
def test_cells_of_yaml_that_are_no_numbers(tmp_path: Path, cell: str) -> None:
    (tmp_path / "t.yaml").write_text(f"a: {{Omega_m: {cell}}}")
    with pytest.raises(InputError, match=r"t\.yaml: Omega_m of universe 'a' is"):
        open_table(tmp_path / "t.yaml").parameters("a")


def hdf5_table(path: Path, **columns: Any) -> None:
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file[name] = column


def test_hdf5_tables_that_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "t.hdf5"

    def wrong(match: str, **columns: Any) -> None:
        hdf5_table(path, **columns)
        with pytest.raises(InputError, match=match) as caught:
            read_table(path)
        assert "t.hdf5" in str(caught.value)

    wrong("a data set 'id'", x=[1.0])
    wrong("rows, expected the same number", id=["a", "b"], x=[1.0])
    wrong("'a' stands twice", id=["a", "a"], x=[1.0, 2.0])
    wrong("neither text nor a whole number", id=[0.5], x=[1.0])
    wrong("neither text nor a whole number", id=np.array([b"\xff\xfe"]), x=[1.0])
    wrong(r"has the shape \(2, 2\)", id=["a"], x=np.zeros((2, 2)))
    wrong(r"expected one number or id", id=["a"], x=3.0)
    wrong("expected numbers or ids", id=["a"], x=np.array([1j]))
    wrong("is an external link", id=h5py.ExternalLink("/etc/passwd", "/"), x=[1.0])
    wrong("is a soft link", id=["a"], x=h5py.SoftLink("/id"))
    with h5py.File(path, "w") as file:
        file.create_dataset("id", (10**12,), "i8", chunks=(1000,))
    with pytest.raises(InputError, match="8000000000000 bytes"):
        read_table(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"t\.hdf5"):
        read_table(path)


def test_tables_that_are_not_there(tmp_path: Path) -> None:
    for name in ("t.csv", "t.yaml", "t.hdf5", "t.txt"):
        with pytest.raises(InputError, match=rf"{name}: the table cannot be read"):
            read_table(tmp_path / name, ["x"])


# --- parameters from headers and names ------------------------------------------------------


def test_parameters_from_the_header(root: Path) -> None:
    changes = {"targets": {"Omega_m": [0.1, 0.5], "H_0": [60.0, 80.0]}}
    recipe = load_recipe(
        write_recipe(root, input={"universes": "sims/*", "parameters": "header"}, **changes)
    )
    found = [survey(u, recipe) for u in list_universes(recipe, root)]
    for universe in found:
        header = open_snapshot(root / f"sims/{universe.id}/snap_0.hdf5").header
        assert universe.parameters["Omega_m"] == header.Omega_m
        assert universe.parameters["h"] == header.h
        assert universe.parameters["H_0"] == pytest.approx(70.0)
        assert header.Omega_m == pytest.approx(expected(root)[universe.id]["Omega_m"])


def test_headers_that_lack_a_target_or_differ(root: Path) -> None:
    inputs = {"universes": "sims/*", "parameters": "header"}
    recipe = load_recipe(write_recipe(root, input=inputs))
    [first, *_] = list_universes(recipe, root)
    with pytest.raises(InputError, match=r"'u000' has no parameter 'sigma_8'.*headers"):
        survey(first, recipe)
    recipe = load_recipe(write_recipe(root, input=inputs, targets={"h": [0.5, 0.9]}))
    with h5py.File(root / "sims/u000/snap_1.hdf5", "r+") as file:
        file["Parameters"].attrs["HubbleParam"] = 0.71
    with pytest.raises(InputError, match=r"snap_1.*records h = 0\.71.*one cosmology"):
        survey(first, recipe)


def test_parameters_from_names_of_folders_and_files(root: Path) -> None:
    for number, name in enumerate(IDS):
        place = root / f"grid/run{number}_Om0.3_s8{0.7 + number / 10:.1f}"
        shutil.copytree(root / "sims" / name, place)
        shutil.copy(place / "snap_0.hdf5", root / f"f{place.name}.hdf5")
    pattern = "Om(?P<Omega_m>[0-9.]+)_s8(?P<sigma_8>[0-9.]+)"
    targets = {"Omega_m": [0.1, 0.5], "sigma_8": [0.6, 1.0]}
    for places in ("grid/*", "frun*.hdf5"):
        inputs = {"universes": places, "parameters_pattern": pattern}
        recipe = load_recipe(write_recipe(root, input=inputs, targets=targets))
        found = list_universes(recipe, root)
        assert [u.parameters["sigma_8"] for u in found] == [0.7, 0.8, 0.9]
        assert {u.parameters["Omega_m"] for u in found} == {0.3}


@pytest.mark.parametrize(
    ("pattern", "part"),
    [
        ("Om(?P<Omega_m>.*)", "u000: input.parameters_pattern (Om(?P<Omega_m>.*)) matches nothing"),
        ("u(?P<Omega_m>[0-9])", None),
        ("(?P<Omega_m>u...)", "u000: Omega_m by input.parameters_pattern is 'u000'"),
        ("(?P<Omega_m>[0-9])", "matches 2 different times in 'sims/u001'"),
    ],
)
def test_names_that_do_not_tell(root: Path, pattern: str, part: str | None) -> None:
    inputs = {"universes": "sims/*", "parameters_pattern": pattern}
    recipe = load_recipe(write_recipe(root, input=inputs, targets={"Omega_m": [-1.0, 500.0]}))
    if part is None:
        assert [u.parameters["Omega_m"] for u in list_universes(recipe, root)] == [0, 0, 0]
        return
    with pytest.raises(InputError) as caught:
        list_universes(recipe, root)
    assert part in str(caught.value)


def test_no_source_of_parameters(root: Path) -> None:
    refused(root, "input.parameters is missing", "header", universes="sims/*")


# --- what the recipe alone shows to be wrong -------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "parts"),
    [
        ({"universes": 3}, [":3: input.universes: 3 is not a glob"]),
        ({"universes": []}, [":3: input.universes: [] is not a glob"]),
        ({"universes": ""}, [":3: input.universes: '' is not a glob"]),
        ({"universes": ["a", 3]}, [":3: input.universes: 3 in the list is not a glob"]),
        ({"universes": ["a", "a"]}, ["holds one entry twice"]),
        ({"universes": ["a", "t.csv"]}, ["give the table t.csv alone"]),
        ({"parameters": "table.cvs"}, [":4: input.parameters: ", "did you mean '.csv'?"]),
        ({"parameters": "haeder"}, [":4: input.parameters: ", "did you mean 'header'?"]),
        ({"parameters": "table.npz"}, ["neither 'header' nor a table (.csv, .yaml"]),
        ({"parameters": "t.txt"}, ["input.parameter_names: is missing: t.txt has no line"]),
        (
            {"parameters": "t.csv", "parameter_names": ["a"]},
            [":5: input.parameter_names: names the columns of a plain text table"],
        ),
        ({"parameters": "t.txt", "parameter_names": ["a", "a"]}, ["holds one name twice"]),
        ({"parameters": "t.txt", "parameter_names": ["id"]}, ["rows of a plain text table are"]),
        (
            {"parameters": "t.txt", "parameter_names": ["Omega_m", "sigma8", "n_s"]},
            ["targets: 'sigma_8' is not in input.parameter_names; did you mean 'sigma8'?"],
        ),
        ({"parameters_pattern": "(", "parameters": None}, ["is not a regular expression"]),
        ({"parameters_pattern": "x", "parameters": None}, ["has no named groups"]),
        (
            {"parameters_pattern": "(?P<Omega_m>.)", "parameters": None},
            ["targets: 'sigma_8' is not in input.parameters_pattern"],
        ),
        (
            {"parameters_pattern": "(?P<Omega_m>.)"},
            [":2: input: parameters and parameters_pattern"],
        ),
        ({"id_pattern": "x"}, [":5: input.id_pattern: 'x' has the named groups [], expected only"]),
        ({"id_pattern": "(?P<id>.)(?P<x>.)"}, ["['id', 'x']"]),
        ({"universes": "t.csv", "id_pattern": "(?P<id>.)"}, ["t.csv, so id_pattern serves for"]),
        ({"universes": "t.yaml", "snapshots": "*"}, ["t.yaml, so snapshots serves for nothing"]),
        (
            {"parameters": "header", "Omega_m": 0.3},
            ["targets: 'Omega_m' would be input.Omega_m = 0.3 in every universe"],
        ),
        ({"parameter": "t.csv"}, ["unknown key; did you mean 'parameters'?"]),
        ({"overide": True}, ["unknown key; did you mean 'override'?"]),
    ],
)
def test_refused_before_anything_is_read(
    tmp_path: Path, inputs: dict[str, Any], parts: list[str]
) -> None:
    given = {"universes": "sims/*", "parameters": "cosmology.csv", **inputs}
    refused(
        tmp_path,
        "recipe.yaml:",
        *parts,
        kind=RecipeError,
        **{k: v for k, v in given.items() if v is not None},
    )


# --- the command -----------------------------------------------------------------------------


def test_check_tells_everything(root: Path, prep: Run) -> None:
    recipe = write_recipe(root, grid__redshifts=[0.0], split__fractions={"train": 1.0})
    with h5py.File(root / "sims/u001/snap_0.hdf5", "r+") as file:
        file["PartType1/Coordinates"][:3] = [[-500.0, 0, 0], [0, 100_250.0, 0], [1, 2, 100_000.0]]
    done = prep("check", recipe, "--full", "--workers", "1")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if "u001" in line)
    parameters = expected(root)["u001"]
    for part in ("100", "64", "gadget_hdf5", "kpc/h", "1.000", "3 (by up to 0.5 Mpc/h)"):
        assert part in line
    assert f"Omega_m={parameters['Omega_m']:.4g}" in line
    assert "total: 3 universes, 3 snapshots, 192 particles" in done.stdout
    assert "note: 3 snapshots are there and serve for no redshift" in done.stdout
    assert "snap_1.hdf5 (z = 1)" in done.stdout
    facts = json.loads(prep("check", recipe, "--full", "--workers", "1", "--json").stdout)
    assert facts["totals"] == {
        "universes": 3,
        "snapshots": 3,
        "particles": 192,
        "refused": 0,
        "unused": 3,
    }
    first, second, _ = facts["accepted"]
    assert (first["outside"], second["outside"]) == ([0], [3])
    assert second["farthest"] == [0.5]
    assert second["density"] == [pytest.approx(1.0, rel=1e-5)]
    assert second["parameters"] == parameters


def test_check_reads_every_position_only_if_asked(root: Path, prep: Run) -> None:
    recipe = write_recipe(root, split__fractions={"train": 1.0})
    with h5py.File(root / "sims/u002/snap_1.hdf5", "r+") as file:
        file["PartType1/Coordinates"][10:12] = np.nan
    assert prep("check", recipe, "--workers", "1").returncode == 0
    done = prep("check", recipe, "--full", "--workers", "1")
    assert done.returncode == 4
    [line] = [line for line in done.stderr.splitlines() if line.startswith("refused: ")]
    assert "u002: " in line
    assert "snap_1.hdf5: 2 of 64 positions are NaN or infinite" in line
    assert "total: 2 universes" in done.stdout


def test_ids_that_look_like_markup_are_shown_as_they_are(tmp_path: Path, prep: Run) -> None:
    write_gadget_hdf5(tmp_path / "sims/[red]x/s.hdf5", random_positions(64))
    recipe = write_recipe(
        tmp_path,
        input={"universes": "sims", "parameters": "header"},
        targets={"Omega_m": [0.1, 0.5]},
        grid__redshifts=[0.0],
    )
    done = prep("check", recipe, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "[red]x" in done.stdout
