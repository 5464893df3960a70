"""``cosmoflow-prep power``: snapshots, ready grids and data sets as a user measures them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.build import build
from pipeline.cli_power import power as power_command
from pipeline.cluster import ClusterChoice
from pipeline.deposit import scheme_names
from pipeline.errors import InputError, SnapshotError
from pipeline.linear_theory import Cosmology, linear_power
from pipeline.power_report import csv_bytes, picture
from pipeline.power_spectrum import Estimator, power_spectrum
from pipeline.snapshot import ReadOptions
from pipeline.snapshot_power import Request, measure
from tests import grids_made
from tests.conftest import Run
from tests.ensembles_made import write_ensemble, write_recipe
from tests.power_made import BOX_SIZE, FUNDAMENTAL, clusters, measured
from tests.snapshots_made import write_gadget_binary, write_gadget_hdf5

ALL = ["-p", "Omega_b=0.049", "-p", "sigma_8=0.83", "-p", "n_s=0.96"]
"""What a snapshot's header does not tell."""


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("snapshot")
    paths = write_gadget_hdf5(folder / "snap.hdf5", clusters(), n_files=2, dtype="f8", redshift=1)
    return paths[0]


# --- what is measured ---------------------------------------------------------------------------


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("scheme", scheme_names())
def test_a_snapshot_is_measured_like_its_particles(snapshot, scheme, interlaced):
    (found,) = measure(snapshot, Request(n_grid=24, scheme=scheme, interlace=interlaced))
    expected = measured(clusters(), 24, scheme, interlaced=interlaced)
    np.testing.assert_allclose(found.spectrum.power, expected.power, rtol=1e-5)
    np.testing.assert_allclose(found.spectrum.noise, expected.noise)
    assert (found.n_grid, found.scheme, found.redshift) == (24, scheme, 1.0)
    assert found.parameters == {"Omega_m": 0.3, "h": 0.7}


def test_options_do_what_they_say(snapshot):
    (default,) = measure(snapshot, Request())
    assert (default.n_grid, default.scheme, default.interlaced) == (32, "tsc", False)
    assert default.compensated
    (raw,) = measure(snapshot, Request(compensate=False))
    (less,) = measure(snapshot, Request(subtract_shot_noise=True))
    (wide,) = measure(snapshot, Request(bin_width=3 * FUNDAMENTAL, k_max=0.5))
    assert (raw.spectrum.power < default.spectrum.power).all()
    np.testing.assert_allclose(
        less.spectrum.power, default.spectrum.power - default.spectrum.noise, rtol=1e-9
    )
    assert wide.spectrum.n_modes.tolist() == [
        default.spectrum.n_modes[first : first + 3].sum() for first in (0, 3, 6)
    ]


def test_two_formats_of_the_same_particles_have_the_same_power(snapshot, tmp_path):
    (other,) = write_gadget_binary(tmp_path / "snap", clusters(), dtype="f8")
    (one,), (two,) = (measure(path, Request()) for path in (snapshot, other))
    np.testing.assert_allclose(one.spectrum.power, two.spectrum.power, rtol=1e-6)


def test_damaged_positions_are_refused(tmp_path):
    positions = clusters()
    positions[7, 1] = np.nan
    (path,) = write_gadget_hdf5(tmp_path / "snap.hdf5", positions)
    with pytest.raises(SnapshotError, match="1 of 9000 positions are NaN"):
        measure(path, Request())


@pytest.mark.parametrize("scheme", ["CIC", ""])
def test_a_ready_density_is_measured_with_its_own_scheme(tmp_path, scheme):
    field = grids_made.overdensity(16)
    path = grids_made.write_quijote_grid(tmp_path, field, scheme)
    options = ReadOptions(box_size=BOX_SIZE)
    (found,) = measure(path, Request(), options)
    expected = power_spectrum(field, BOX_SIZE, None, Estimator(2 if scheme else None))
    np.testing.assert_allclose(found.spectrum.power, expected.power, rtol=1e-5)
    assert (found.scheme, found.compensated) == ((scheme.lower() or None), bool(scheme))
    assert found.spectrum.shot_noise is None
    for request, message in (
        (Request(interlace=True), "drop --interlace"),
        (Request(n_grid=8), "grid of 16 cells a side, not 8"),
        (Request(subtract_shot_noise=True), "cannot be subtracted"),
    ):
        with pytest.raises(InputError, match=message):
            measure(path, request, options)
    named = Request(scheme="tsc")
    if scheme:
        with pytest.raises(InputError, match="made by cic mass assignment, not tsc"):
            measure(path, named, options)
    else:
        (told,) = measure(path, named, options)
        assert told.scheme == "tsc"
        assert (told.spectrum.power > found.spectrum.power).all()


def test_a_file_of_several_redshifts_gives_all_or_one(tmp_path):
    counts = grids_made.counts(16)
    path = grids_made.write_cosmoflow_hdf5(tmp_path / "universe.hdf5", counts)
    found = measure(path, Request(scheme="ngp"))
    assert [one.redshift for one in found] == [0.0, 0.5, 1.5, 3.0]
    for channel, one in enumerate(found):
        delta = counts[..., channel] / 1.0 - 1
        box_size = one.spectrum.box_size
        expected = power_spectrum(delta, box_size, None, Estimator(1), 16**3)
        np.testing.assert_allclose(one.spectrum.power, expected.power, rtol=1e-5)
        assert one.n_particles == 16**3
        assert one.spectrum.shot_noise == pytest.approx(box_size**3 / 16**3)
    (late,) = measure(path, Request(scheme="ngp"), redshift=0.501)
    assert late.spectrum.power.tolist() == found[1].spectrum.power.tolist()
    with pytest.raises(InputError, match=r"no redshift 2, only 0, 0\.5, 1\.5, 3"):
        measure(path, Request(scheme="ngp"), redshift=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, cluster: ClusterChoice) -> Path:
    root = tmp_path_factory.mktemp("project")
    write_ensemble(root)
    recipe = write_recipe(root, grid={"n_grid": 16, "scheme": "tsc", "redshifts": [0.0, 1.0]})
    build(recipe, cluster)
    return root / "out"


def test_a_cube_of_a_data_set_has_the_power_of_its_snapshot(dataset):
    for number in (0, 6, 9):  # of more than one split
        name = f"u{number:03d}"
        cubes = measure(dataset, Request(), universe=name)
        for channel, cube in enumerate(cubes):
            path = dataset.parent / f"sims/{name}/snap_{channel}.hdf5"
            (expected,) = measure(path, Request(n_grid=16, scheme="tsc"))
            np.testing.assert_allclose(cube.spectrum.power, expected.spectrum.power, rtol=1e-4)
            np.testing.assert_allclose(cube.spectrum.noise, expected.spectrum.noise)
            assert cube.redshift == expected.redshift == channel
        assert set(cubes[0].parameters) >= {"Omega_m", "sigma_8", "n_s"}


def test_a_universe_has_to_be_named(dataset, snapshot):
    for universe, message in (
        (None, r"no universe is named; choose one of its 10 \("),
        ("u99", "no universe 'u99'"),
    ):
        with pytest.raises(InputError, match=message):
            measure(dataset, Request(), universe=universe)
    with pytest.raises(InputError, match="universes are chosen of data sets"):
        measure(snapshot, Request(), universe="u000")
    with pytest.raises(InputError, match="neither a data set"):
        measure(dataset.parent, Request())
    with pytest.raises(InputError, match="drop --interlace"):
        measure(dataset, Request(interlace=True), universe="u000")


# --- linear theory and files ----------------------------------------------------------------


def test_linear_theory_needs_all_parameters(snapshot):
    (found,) = measure(snapshot, Request())
    assert found.missing == ("Omega_b", "sigma_8", "n_s")
    assert found.linear(found.spectrum.k) is None


def test_files_are_the_same_bytes_every_time(snapshot, tmp_path):
    found = measure(snapshot, Request())
    assert csv_bytes(found) == csv_bytes(measure(snapshot, Request()))
    for name, start in (("a.png", b"\x89PNG"), ("b.svg", b"<?xml")):
        one, two = (picture(found, tmp_path / name) for _ in range(2))
        assert one == two
        assert one.startswith(start)


# --- the command ------------------------------------------------------------------------------


def test_text_csv_json_and_plots_hold_the_same(snapshot, prep: Run, tmp_path):
    done = prep(
        "power", snapshot, "--n-grid", 24, "--interlace", *ALL, "--csv", "p.csv", "--plot", "p.svg"
    )
    assert done.returncode == 0, done.stderr
    assert "wrote p.csv" in done.stderr
    assert (tmp_path / "p.svg").read_text().count("linear theory") > 0
    head, names, *lines = done.stdout.splitlines()
    assert head.startswith(f"# {snapshot}, z = 1, box 100 Mpc/h: 24^3 cells, TSC, ")
    assert "interlaced, shot noise 111.1 (Mpc/h)^3 kept" in head
    names = names.removeprefix("#").split()
    assert names == ["k", "power", "sample_error", "shot_noise", "modes", "linear"]
    text = np.array([line.split() for line in lines], dtype=float)
    (found,) = json.loads(
        prep("power", snapshot, "--n-grid", 24, "--interlace", *ALL, "--json").stdout
    )["spectra"]
    np.testing.assert_allclose(text, np.array([found[name] for name in names]).T, rtol=1e-5)
    with (tmp_path / "p.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [[float(row[name]) for row in rows] for name in names] == [found[n] for n in names]
    expected = measured(clusters(), 24, "tsc", interlaced=True)
    np.testing.assert_allclose(found["power"], expected.power, rtol=1e-5)
    assert found["modes"] == expected.n_modes.tolist()
    cosmology = Cosmology(0.3, 0.049, 0.83, 0.96, 0.7)
    linear = linear_power(np.array(found["k"]), cosmology, 1.0)
    np.testing.assert_allclose(found["linear"], linear, rtol=1e-12)


def test_several_paths_are_shown_together(dataset, snapshot, prep: Run, tmp_path):
    other = dataset.parent / "sims/u000/snap_0.hdf5"
    done = prep("power", snapshot, other, "--plot", "both.png", "--k-max", 0.3)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("# ") == 4
    assert "no linear theory without Omega_b, n_s, sigma_8; give -p Omega_b=..." in done.stderr
    assert (tmp_path / "both.png").stat().st_size > 5000
    cube = prep("power", dataset, "--universe", "u000", "--redshift", 0, "--k-max", 0.3)
    assert f"{dataset}: u000, z = 0" in cube.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["no.hdf5"], 4, "no.hdf5: no such file"),
        (["SNAP", "--redshift", "3"], 4, "has no redshift 3, only 1"),
        (["SNAP", "--bin-width", "0.01"], 4, "narrower than the box's lowest mode"),
        (["SNAP", "--k-max", "0.01"], 4, "choose another --bin-width, --k-max or --n-grid"),
        (["SNAP", "--plot", "p.pdf"], 5, "ends in '.pdf', expected .png or .svg"),
        (["SNAP", "-p", "sigma_8"], 2, "'sigma_8' is not NAME=NUMBER"),
        (["SNAP", "--scheme", "tic"], 2, "'tic' is not one of"),
        ([], 2, "Missing argument 'PATH...'"),
    ],
)
def test_errors_say_what_to_do(snapshot, prep: Run, arguments, code, message):
    done = prep("power", *[snapshot if a == "SNAP" else a for a in arguments])
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_knows_every_scheme():
    (option,) = (o for o in power_command.params if o.name == "scheme")
    assert tuple(option.type.choices) == scheme_names()
