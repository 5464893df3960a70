"""The ensemble of small N-body universes: design, files, resumption and physics."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.errors import MissingDependencyError, OutputError, SimulationError
from pipeline.simulate import EnsembleSpec, Universe, draw_universes, simulate_ensemble
from pipeline.simulate.nbody import gadget_velocity, scale_factors
from pipeline.simulate.spec import A_START
from pipeline.units import RHO_CRIT

# a box so large that the lowest wavenumbers stay linear down to z = 0
SPEC = EnsembleSpec(3, n_particles=32, box_size=512.0, seed=5)

# --- the specification --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_universes": 0}, "n_universes is 0"),
        ({"n_universes": 2.5}, "n_universes is 2.5"),
        ({"seed": -1}, "seed is -1"),
        ({"n_particles": 33}, "even number"),
        ({"n_particles": 4}, "n_particles is 4"),
        ({"n_files": 0}, "n_files is 0"),
        ({"box_size": 0.0}, "box_size is 0.0"),
        ({"box_size": float("nan")}, "box_size is nan"),
        ({"h": -0.7}, "h is -0.7"),
        ({"Omega_b": 0.1}, "less baryons than matter"),
        ({"design": "grid"}, "design is 'grid'; expected sobol or latin-hypercube"),
        ({"redshifts": ()}, "redshifts are empty"),
        ({"redshifts": (1.0, -0.1)}, "redshift -0.1"),
        ({"redshifts": (15.0,)}, "redshift 15.0"),
        ({"redshifts": (1, 1.0)}, "twice"),
        ({"time_steps": 3}, "time_steps is 3 for 4 redshifts"),
        ({"velocities": 1}, "velocities is 1"),
    ],
)
def test_impossible_specification_is_refused(change, message):
    with pytest.raises(SimulationError, match=message):
        replace(SPEC, **change)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"Omega_m": (0.5, 0.1)}, "inverted: 0.5 to 0.1"),
        ({"Omega_m": (0.0, 0.1)}, "two positive numbers"),
        ({"n_s": (0.9, 1.0, 1.1)}, "two positive numbers"),
        ({"Omega_m": (0.2, 1.5)}, "at most 1"),
        ({"w_0": (0.9, 1.0)}, "expected exactly Omega_m, sigma_8, n_s"),
    ],
)
def test_impossible_range_is_refused(ranges, message):
    with pytest.raises(SimulationError, match=message):
        replace(SPEC, ranges={**SPEC.ranges, **ranges})


def test_specification_is_normalised():
    spec = EnsembleSpec(1, redshifts=(0, 3, 1), ranges=dict(reversed(SPEC.ranges.items())))
    assert spec.redshifts == (3.0, 1.0, 0.0)
    assert list(spec.ranges) == ["Omega_m", "sigma_8", "n_s"]
    assert EnsembleSpec(**json.loads(json.dumps(spec.as_json()))) == spec


def test_time_steps_reach_every_redshift():
    schedule = scale_factors((3.0, 1.5, 0.5, 0.0), 11)
    assert [steps[-1] for steps in schedule] == [0.25, 0.4, 1 / 1.5, 1.0]
    flat = [A_START, *itertools.chain.from_iterable(schedule)]
    assert len(flat) == 12
    assert (np.diff(flat) > 0).all()


def test_importing_the_simulator_imports_no_jax():
    code = "import sys, pipeline.simulate; assert not {'jax', 'pmpp', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_missing_library_says_what_to_install(tmp_path, monkeypatch):
    pytest.importorskip("scipy", reason="the design needs scipy")

    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(MissingDependencyError, match=r"pmpp.*cosmoflow-prep\[simulate\]"):
        simulate_ensemble(SPEC, tmp_path / "sims")
    assert not (tmp_path / "sims").exists()


# --- the design ---------------------------------------------------------------------------


def unit_points(spec: EnsembleSpec) -> np.ndarray:
    """Cosmologies scaled to the unit cube, (n_universes, 3)."""
    pytest.importorskip("scipy", reason="the design needs scipy")
    universes = draw_universes(spec)
    points = np.array([[getattr(u, name) for name in spec.ranges] for u in universes])
    low, high = np.array(list(spec.ranges.values())).T
    return (points - low) / (high - low)


@pytest.mark.parametrize("design", ["sobol", "latin-hypercube"])
@pytest.mark.parametrize("n", [1, 7, 64])
def test_design_is_in_range_and_stratified(design, n):
    points = unit_points(EnsembleSpec(n, design=design, seed=n))
    assert points.shape == (n, 3)
    assert ((points >= 0) & (points <= 1)).all()
    if design == "latin-hypercube" or n == 64:
        strata = np.sort((points * n).astype(int), axis=0)
        np.testing.assert_array_equal(strata, np.arange(n)[:, None].repeat(3, axis=1))


def test_design_follows_the_seed():
    pytest.importorskip("scipy", reason="the design needs scipy")
    spec = EnsembleSpec(16, seed=1)
    assert draw_universes(spec) == draw_universes(spec)
    others = draw_universes(replace(spec, seed=2))
    assert not {u.Omega_m for u in draw_universes(spec)} & {u.Omega_m for u in others}
    assert len({u.seed for u in draw_universes(spec)} | {u.seed for u in others}) == 32


def test_sobol_design_grows_without_moving():
    pytest.importorskip("scipy", reason="the design needs scipy")
    assert draw_universes(EnsembleSpec(40))[:11] == draw_universes(EnsembleSpec(11))


# --- the files ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Let the runs of this module share what JAX compiles (their bytes are the same)."""
    pytest.importorskip("pmpp", reason="simulating needs the simulate extra (pmpp)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


@pytest.fixture(scope="module")
def calls():
    """What the progress callback of the ``ensemble`` was told."""
    return []


@pytest.fixture(scope="module")
def ensemble(compiled, calls, tmp_path_factory):
    """An ensemble made in one go by one process; not to be changed."""
    output = tmp_path_factory.mktemp("ensemble") / "sims"
    simulate_ensemble(SPEC, output, lambda *call: calls.append(call), n_processes=1)
    return output


@pytest.fixture
def copy(ensemble, tmp_path):
    return shutil.copytree(ensemble, tmp_path / "sims")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_folder_holds_what_is_promised(ensemble):
    names = {f"u{u:04d}/snapshot_{s:03d}.hdf5" for u in range(3) for s in range(4)}
    assert set(digests(ensemble)) == names | {"ensemble.json", "cosmology.csv"}
    record = json.loads((ensemble / "ensemble.json").read_text())
    assert record["spec"] == SPEC.as_json()
    assert set(record["software"]) == {"pmpp", "jax", "jaxlib"}
    lines = (ensemble / "cosmology.csv").read_text().splitlines()
    assert lines[0] == "id,Omega_m,sigma_8,n_s,h,Omega_b,seed"
    first = draw_universes(SPEC)[0]
    assert [float(x) for x in lines[1].split(",")[1:4]] == [
        first.Omega_m,
        first.sigma_8,
        first.n_s,
    ]


def test_progress_is_told_once_a_universe_and_compiles_once(calls, ensemble):
    assert [call[:3] for call in calls] == [(1, 3, "u0000"), (2, 3, "u0001"), (3, 3, "u0002")]
    first, *others = (call[3] for call in calls)
    assert max(others) < first / 2


@pytest.mark.parametrize("number", range(4))
def test_snapshot_is_like_gadget4(ensemble, number):
    universe = draw_universes(SPEC)[1]
    redshift = SPEC.redshifts[number]
    with h5py.File(ensemble / universe.id / f"snapshot_{number:03d}.hdf5") as file:
        header = dict(file["Header"].attrs)
        parameters = dict(file["Parameters"].attrs)
        positions = file["PartType1/Coordinates"][:]
        identifiers = file["PartType1/ParticleIDs"][:]
        units = dict(file["PartType1/Velocities"].attrs)
        assert file["PartType1/Velocities"].dtype == np.float32
    n = SPEC.n_particles**3
    for name in ("NumPart_ThisFile", "NumPart_Total"):
        assert header[name].dtype == np.uint64
        assert header[name].tolist() == [0, n]
    assert (header["BoxSize"], header["NumFilesPerSnapshot"]) == (512.0, 1)
    assert header["Redshift"] == redshift
    assert header["Time"] == pytest.approx(1 / (1 + redshift))
    density = header["MassTable"][1] * n / SPEC.box_size**3
    assert density == pytest.approx(universe.Omega_m * RHO_CRIT)
    assert header["Omega0"] == parameters["Omega0"] == universe.Omega_m
    assert header["HubbleParam"] == parameters["HubbleParam"] == 0.6711
    assert header["OmegaLambda"] == parameters["OmegaLambda"] == 1 - universe.Omega_m
    assert parameters["OmegaBaryon"] == 0.049
    assert parameters["UnitLength_in_cm"] == 3.085678e24
    assert parameters["UnitMass_in_g"] == 1.989e43
    assert parameters["UnitVelocity_in_cm_per_s"] == 1e5
    assert units["a_scaling"] == 0.5
    assert positions.dtype == np.float32
    assert positions.shape == (n, 3)
    assert positions.min() >= 0
    assert positions.max() < SPEC.box_size
    assert identifiers.dtype == np.uint32
    np.testing.assert_array_equal(np.sort(identifiers), np.arange(1, n + 1))


def test_several_files_a_snapshot_hold_the_same_particles(ensemble, tmp_path):
    spec = replace(SPEC, n_universes=1, n_files=3, velocities=False)
    simulate_ensemble(spec, tmp_path / "sims", n_processes=1)
    positions, here = [], 0
    for part in range(3):
        path = tmp_path / f"sims/u0000/snapdir_003/snapshot_003.{part}.hdf5"
        with h5py.File(path) as file:
            positions.append(file["PartType1/Coordinates"][:])
            here += int(file["Header"].attrs["NumPart_ThisFile"][1])
            assert file["Header"].attrs["NumFilesPerSnapshot"] == 3
            assert "Velocities" not in file["PartType1"]
    assert here == SPEC.n_particles**3
    with h5py.File(ensemble / "u0000/snapshot_003.hdf5") as file:
        np.testing.assert_array_equal(np.concatenate(positions), file["PartType1/Coordinates"])


# --- repeatable, resumable ----------------------------------------------------------------


def test_bytes_do_not_depend_on_the_number_of_processes(ensemble, tmp_path):
    result = simulate_ensemble(SPEC, tmp_path / "sims", n_processes=2)
    assert result.simulated == ("u0000", "u0001", "u0002")
    assert digests(tmp_path / "sims") == digests(ensemble)


def test_resuming_mends_what_is_missing_and_touches_nothing_else(copy):
    before = digests(copy)
    hurt = ["u0001/snapshot_001.hdf5", "u0001/snapshot_003.hdf5", "cosmology.csv"]
    (copy / hurt[0]).unlink()
    os.truncate(copy / hurt[1], 100_000)
    (copy / hurt[2]).unlink()
    (copy / "u0001/.snapshot_002.hdf5.1.tmp").write_bytes(b"left by a kill")
    times = {name: (copy / name).stat().st_mtime_ns for name in before if name not in hurt}
    told = []
    result = simulate_ensemble(SPEC, copy, lambda *call: told.append(call), n_processes=1)
    assert (result.simulated, result.kept) == (("u0001",), ("u0000", "u0002"))
    assert [call[:3] for call in told] == [(3, 3, "u0001")]
    assert digests(copy) == before
    assert {name: (copy / name).stat().st_mtime_ns for name in times} == times


def test_whole_ensemble_is_left_alone(copy):
    times = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert simulate_ensemble(SPEC, copy).simulated == ()
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == times


KILLED_RUN = """
import sys
from pathlib import Path
from pipeline.simulate import EnsembleSpec, simulate_ensemble
if __name__ == "__main__":
    spec = EnsembleSpec(3, n_particles=32, box_size=512.0, seed=5)
    simulate_ensemble(spec, Path(sys.argv[1]), n_processes=1)
"""


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def test_killed_run_resumes_to_the_same_bytes(ensemble, tmp_path):
    psutil = pytest.importorskip("psutil")
    script, output = tmp_path / "run.py", tmp_path / "sims"
    script.write_text(KILLED_RUN)
    process = subprocess.Popen([sys.executable, str(script), str(output)])
    try:
        wait_for((output / "u0000/snapshot_000.hdf5").exists, 60)
        workers = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    # no orphan goes on writing
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert len(digests(output)) < len(digests(ensemble))
    simulate_ensemble(SPEC, output, n_processes=1)
    assert digests(output) == digests(ensemble)


def test_error_in_the_caller_stops_the_processes_and_leaves_no_temporary_file(ensemble, tmp_path):
    def interrupt(*call):
        raise KeyboardInterrupt

    # other tests' clusters may live in this process
    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        simulate_ensemble(SPEC, tmp_path / "sims", interrupt, n_processes=2)
    left = set(multiprocessing.active_children()) - before
    assert not [child for child in left if child.is_alive()]
    assert not list((tmp_path / "sims").rglob("*.tmp"))
    here, whole = digests(tmp_path / "sims"), digests(ensemble)
    assert here.items() <= whole.items()


def test_different_specification_is_refused_with_the_difference(copy):
    before = digests(copy)
    other = replace(SPEC, seed=6, ranges={**SPEC.ranges, "n_s": (0.9, 1.0)})
    with pytest.raises(SimulationError) as caught:
        simulate_ensemble(other, copy)
    assert "spec.seed: there 5, asked 6" in str(caught.value)
    assert "spec.ranges.n_s: there [0.8, 1.2], asked [0.9, 1.0]" in str(caught.value)
    assert "h: there" not in str(caught.value)
    assert digests(copy) == before


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_other_json_is_refused(compiled, tmp_path, text):
    (tmp_path / "ensemble.json").write_text(text)
    with pytest.raises(SimulationError, match=r"ensemble\.json"):
        simulate_ensemble(SPEC, tmp_path)


def test_edited_table_is_refused(copy):
    table = copy / "cosmology.csv"
    table.write_text(table.read_text().replace("u0001", "mine"))
    with pytest.raises(SimulationError, match="not the table"):
        simulate_ensemble(SPEC, copy)
    assert "mine" in table.read_text()


def test_folder_of_other_things_is_refused(compiled, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="not an ensemble"):
        simulate_ensemble(SPEC, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_runs_in_one_folder_are_refused(copy):
    fcntl = pytest.importorskip("fcntl")
    with (copy / "ensemble.json").open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another run"):
            simulate_ensemble(SPEC, copy)


# --- the physics, against linear theory written here --------------------------------------


def read_snapshot(folder: Path, universe: Universe, number: int) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(folder / universe.id / f"snapshot_{number:03d}.hdf5") as file:
        return file["PartType1/Coordinates"][:], file["PartType1/Velocities"][:]


def cloud_in_cell(positions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Weights on a periodic 64^3 grid, as multiples of the mean number of particles a cell."""
    n = 64
    x = positions.astype(np.float64) * (n / SPEC.box_size)
    cell = np.floor(x).astype(int)
    offset = x - cell
    grid = np.zeros(n**3)
    for corner in itertools.product((0, 1), repeat=3):
        share = np.prod(np.where(corner, offset, 1 - offset), axis=1)
        index = np.ravel_multi_index(((cell + corner) % n).T, (n,) * 3)
        grid += np.bincount(index, share if weights is None else share * weights, n**3)
    return grid.reshape(n, n, n) * (n**3 / len(positions))


def wavevectors(n: int = 64) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Components of k and k itself in h/Mpc, and the modes of the lowest band."""
    fundamental = 2 * np.pi / SPEC.box_size
    k1 = np.fft.fftfreq(n, 1 / n) * fundamental
    k = list(np.meshgrid(k1, k1, k1[: n // 2 + 1], indexing="ij"))
    size = np.sqrt(sum(component**2 for component in k))
    return k, size, (size > 0) & (size < 3.5 * fundamental)


def modes(positions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Fourier modes with the cloud's window taken off."""
    k, _, _ = wavevectors()
    half_cell = SPEC.box_size / 64 / 2 / np.pi
    window = np.prod([np.sinc(component * half_cell) for component in k], axis=0) ** 2
    return np.fft.rfftn(cloud_in_cell(positions, weights)) / 64**3 / window


def growth(Omega_m: float, a: float) -> float:
    """Linear growth factor of flat LCDM, 1 today (Heath 1977)."""

    def unnormalised(end):
        x = np.linspace(1e-6, end, 20001)
        hubble = np.sqrt(Omega_m / x**3 + 1 - Omega_m)
        return hubble[-1] * np.trapezoid(1 / (x * hubble) ** 3, x)

    return unnormalised(a) / unnormalised(1.0)


def no_wiggle_transfer(k: np.ndarray, u: Universe) -> np.ndarray:
    """Eisenstein & Hu (1998), equations 26 and 28 to 31; k in h/Mpc."""
    theta, wm, wb, fb = 2.7255 / 2.7, u.Omega_m * u.h**2, u.Omega_b * u.h**2, u.Omega_b / u.Omega_m
    s = 44.5 * np.log(9.83 / wm) / np.sqrt(1 + 10 * wb**0.75)
    alpha = 1 - 0.328 * np.log(431 * wm) * fb + 0.38 * np.log(22.3 * wm) * fb**2
    shape = u.Omega_m * u.h * (alpha + (1 - alpha) / (1 + (0.43 * k * u.h * s) ** 4))
    q = k * theta**2 / shape
    low = np.log(2 * np.e + 1.8 * q)
    return low / (low + (14.2 + 731 / (1 + 62.5 * q)) * q**2)


def linear_power(k: np.ndarray, u: Universe) -> np.ndarray:
    """P(k) at z = 0 in (Mpc/h)^3, normalised to sigma_8."""
    x = np.geomspace(1e-4, 30, 20000)
    y = 8 * x
    top_hat = 3 * (np.sin(y) - y * np.cos(y)) / y**3
    shape = x**u.n_s * no_wiggle_transfer(x, u) ** 2
    variance = np.trapezoid(shape * top_hat**2 * x**3 / (2 * np.pi**2), np.log(x))
    return u.sigma_8**2 / variance * k**u.n_s * no_wiggle_transfer(k, u) ** 2


def test_large_scales_grow_as_linear_theory_says(ensemble):
    _, _, low = wavevectors()
    for universe in draw_universes(SPEC):
        powers = []
        for number in range(4):
            positions, _ = read_snapshot(ensemble, universe, number)
            powers.append((np.abs(modes(positions)[low]) ** 2).mean())
        expected = [growth(universe.Omega_m, 1 / (1 + z)) ** 2 for z in SPEC.redshifts]
        np.testing.assert_allclose(np.array(powers) / powers[3], expected, rtol=0.1)


def test_power_at_high_redshift_is_that_of_linear_theory(ensemble):
    _, k, low = wavevectors()
    ratios = []
    for universe in draw_universes(SPEC):
        positions, _ = read_snapshot(ensemble, universe, 0)
        measured = np.abs(modes(positions)[low]) ** 2 * SPEC.box_size**3
        expected = linear_power(k[low], universe) * growth(universe.Omega_m, 0.25) ** 2
        ratios.append(np.mean(measured / expected))
    assert np.mean(ratios) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(("number", "tolerance"), [(0, 0.04), (3, 0.1)])
def test_velocities_follow_the_continuity_equation(ensemble, number, tolerance):
    """Div v = -a H f delta on large scales, with Gadget's u = v / sqrt(a)."""
    k, _, low = wavevectors()
    a = 1 / (1 + SPEC.redshifts[number])
    for universe in draw_universes(SPEC):
        positions, velocities = read_snapshot(ensemble, universe, number)
        delta = modes(positions)[low]
        peculiar = velocities * np.sqrt(a)
        divergence = sum(
            1j * k[axis][low] * modes(positions, peculiar[:, axis])[low] for axis in range(3)
        )
        matter = universe.Omega_m / a**3
        hubble = 100 * np.sqrt(matter + 1 - universe.Omega_m)
        rate = (matter / (hubble / 100) ** 2) ** 0.55
        slope = np.sum(divergence * delta.conj()).real / np.sum(np.abs(delta) ** 2)
        assert slope == pytest.approx(-a * hubble * rate, rel=tolerance)


def test_gadget_velocity_of_a_known_momentum():
    momentum = np.array([[1.0, 0.0, -2.0]])
    np.testing.assert_allclose(gadget_velocity(momentum, 0.25), [[800.0, 0.0, -1600.0]])
