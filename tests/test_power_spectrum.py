"""The power spectrum against its definition, sums over particles, other codes and theory."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.deposit import scheme_names
from pipeline.power_spectrum import (
    Estimator,
    bin_edges,
    fourier_modes,
    interlace,
    power_of_modes,
    power_spectrum,
)
from pipeline.readers import open_snapshot
from pipeline.snapshot_power import Request, measure
from tests.power_made import (
    BOX_SIZE,
    FUNDAMENTAL,
    clusters,
    exact_power,
    measured,
    overdensity,
)

# largest deviation up to half the Nyquist frequency of one grid and of two, of a set with a
# white tail; NGP's window is so shallow that images get through whatever is done
TOLERANCES = {"ngp": (0.04, 8e-3), "cic": (0.015, 1e-3), "tsc": (3e-3, 1e-4), "pcs": (1e-3, 3e-5)}

# --- the definition -----------------------------------------------------------------------


def noise_field(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, n, n))


def brute_force(field: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K, P and number of modes from the whole transform, by a loop over bins."""
    n = len(field)
    axis = np.fft.fftfreq(n, 1 / n)
    squares = np.rint(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).astype(int)
    power = np.abs(np.fft.fftn(field) / n**3) ** 2 * BOX_SIZE**3
    lists = []
    for low, high in zip(edges[:-1] / FUNDAMENTAL, edges[1:] / FUNDAMENTAL, strict=True):
        inside = (squares >= low**2 - 1e-6) & (squares < high**2 - 1e-6) & (squares > 0)
        number = np.count_nonzero(inside)
        k = FUNDAMENTAL * np.sqrt(squares[inside]).sum()
        lists.append((k / max(number, 1), power[inside].sum() / max(number, 1), number))
    k, p, number = np.array(lists).T
    return k, p, number.astype(int)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(4, 13),
    seed=st.integers(0, 99),
    first=st.integers(0, 8),
    steps=st.lists(st.integers(1, 12), min_size=1, max_size=6),
)
def test_modes_are_counted_as_in_the_whole_transform(n, seed, first, steps):
    """Edges in quarters of the lowest mode, up to the corner and beyond, on modes or not."""
    field = noise_field(n, seed)
    edges = FUNDAMENTAL / 4 * np.cumsum([first, *steps])
    found = power_spectrum(field, BOX_SIZE, edges)
    k, power, n_modes = brute_force(field, edges)
    assert found.n_modes.tolist() == n_modes.tolist()
    there = n_modes > 0
    np.testing.assert_allclose(found.k[there], k[there], rtol=1e-12)
    np.testing.assert_allclose(found.power[there], power[there], rtol=1e-10)
    assert np.isnan(found.power[~there]).all()


@pytest.mark.parametrize("n", [4, 5, 16, 27])
def test_the_transform_is_numpys_bit_for_bit(n):
    for dtype in (np.float32, np.float64):
        field = noise_field(n).astype(dtype)
        assert fourier_modes(field).tobytes() == np.fft.rfftn(field).tobytes()


@pytest.mark.parametrize("n", [8, 9])
def test_parseval(n):
    """The power of all modes adds up to the variance of the field."""
    field = noise_field(n)
    found = power_spectrum(field, BOX_SIZE, FUNDAMENTAL * np.array([0.5, 2.5, n]))
    assert found.n_modes.sum() == n**3 - 1
    total = (found.power * found.n_modes).sum() / BOX_SIZE**3
    assert total == pytest.approx(field.var(), rel=1e-12)


@pytest.mark.parametrize("wave", [(1, 0, 0), (0, 0, 3), (2, -1, 3), (-4, 4, 0)])
def test_a_plane_wave_has_power_in_its_bin_alone(wave):
    n, amplitude = 16, 0.3
    places = (
        2 * np.pi / n * sum(w * axis for w, axis in zip(wave, np.indices((n,) * 3), strict=True))
    )
    found = power_spectrum(amplitude * np.cos(places + 1.1), BOX_SIZE)
    size = np.sqrt(sum(w**2 for w in wave))
    number = round(size) - 1
    # two modes, each of half the amplitude
    expected = np.zeros(len(found.k))
    expected[number] = BOX_SIZE**3 * 2 * (amplitude / 2) ** 2 / found.n_modes[number]
    np.testing.assert_allclose(found.power, expected, rtol=1e-12, atol=1e-20)
    assert abs(found.k[number] / FUNDAMENTAL - size) < 0.5


@settings(max_examples=20, deadline=None)
@given(
    shift=st.tuples(*[st.integers(0, 11)] * 3),
    axes=st.permutations([0, 1, 2]),
    flip=st.sets(st.integers(0, 2)),
)
def test_translations_and_symmetries_change_nothing(shift, axes, flip):
    field = noise_field(12)
    moved = np.flip(np.roll(field, shift, (0, 1, 2)).transpose(axes), tuple(flip))
    found, expected = (power_spectrum(f, BOX_SIZE).power for f in (moved.copy(), field))
    np.testing.assert_allclose(found, expected, rtol=1e-11)


@pytest.mark.parametrize("scheme", scheme_names())
def test_the_origin_of_the_grid_matters_no_more_than_aliasing(scheme):
    positions, edges = clusters(), bin_edges(16, BOX_SIZE)
    ratios = []
    for interlaced in (False, True):
        cell, node = (
            measured(positions, 32, scheme, edges, interlaced=interlaced, origin=origin).power
            for origin in ("cell", "node")
        )
        ratios.append(np.abs(cell / node - 1).max())
    one, two = ratios
    assert one < TOLERANCES[scheme][False]
    assert two < TOLERANCES[scheme][True]
    assert two < one / 5


def test_single_precision_is_enough():
    field = overdensity(clusters(), 64, "tsc")
    double = power_spectrum(field, BOX_SIZE, estimator=Estimator(3))
    single = power_spectrum(field.astype(np.float32), BOX_SIZE, estimator=Estimator(3))
    np.testing.assert_allclose(single.power, double.power, rtol=1e-5)


def test_edges_of_bins():
    edges = bin_edges(16, BOX_SIZE)
    np.testing.assert_allclose(edges / FUNDAMENTAL, np.arange(0.5, 8))
    assert bin_edges(16, BOX_SIZE, k_max=3 * FUNDAMENTAL).tolist() == edges[:4].tolist()
    wide = bin_edges(16, BOX_SIZE, 2 * FUNDAMENTAL)
    np.testing.assert_allclose(wide / FUNDAMENTAL, [0.5, 2.5, 4.5, 6.5])
    for kind in ({"width": 0.9 * FUNDAMENTAL}, {"k_max": 0.4 * FUNDAMENTAL}):
        with pytest.raises(ValueError, match=r"0\.06283 h/Mpc"):
            bin_edges(16, BOX_SIZE, **kind)


def test_what_is_not_defined_is_refused():
    modes = fourier_modes(noise_field(8))
    two = Estimator(3, interlaced=True)
    with pytest.raises(ValueError, match="below the Nyquist frequency"):
        power_of_modes(modes, BOX_SIZE, FUNDAMENTAL * np.array([1, 4.1]), two)
    with pytest.raises(ValueError, match="number of particles"):
        power_of_modes(modes, BOX_SIZE, estimator=Estimator(3, subtract_shot_noise=True))
    for edges in ([2, 1], [1], [-1, 2], [[1, 2]]):
        with pytest.raises(ValueError, match="rising numbers"):
            power_of_modes(modes, BOX_SIZE, np.array(edges))
    with pytest.raises(ValueError, match="expected 1, 2, 3 or 4"):
        Estimator(5)
    for field in (np.zeros((4, 4, 5)), np.zeros((4, 4)), np.zeros((4, 4, 4), int)):
        with pytest.raises(ValueError, match=r"expected \(n, n, n\) floats"):
            fourier_modes(field)


# --- window, aliasing and shot noise, against sums over the particles --------------------------


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("scheme", scheme_names())
def test_every_scheme_gives_the_particles_own_power(scheme, interlaced):
    edges = bin_edges(32, BOX_SIZE, k_max=8 * FUNDAMENTAL)
    positions = clusters()
    found = measured(positions, 32, scheme, edges, interlaced=interlaced)
    exact = exact_power(positions, edges)
    np.testing.assert_allclose(found.power, exact, rtol=TOLERANCES[scheme][interlaced])
    # the window itself is no small correction there
    plain = measured(positions, 32, scheme, edges, compensate=False)
    assert plain.power[-1] < 0.92 * exact[-1]


@pytest.mark.parametrize(("scheme", "gain"), [("ngp", 10), ("cic", 20), ("tsc", 50), ("pcs", 50)])
def test_interlacing_removes_aliasing(scheme, gain):
    """Against a grid twice as fine and against the particles, up to the Nyquist frequency."""
    positions, edges = clusters(), bin_edges(32, BOX_SIZE)
    one, two = (measured(positions, 32, scheme, edges, interlaced=i).power for i in (False, True))
    fine = measured(positions, 64, "pcs", edges, interlaced=True).power
    exact = exact_power(positions, edges)
    np.testing.assert_allclose(fine, exact, rtol=1e-4)
    for truth in (fine, exact):
        before, after = (np.abs(power / truth - 1).max() for power in (one, two))
        assert before > 0.05
        assert after < before / gain


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("scheme", scheme_names())
def test_shot_noise_is_that_of_random_particles(scheme, interlaced):
    n_particles = 20_000
    positions = np.random.default_rng(5).uniform(0, BOX_SIZE, (n_particles, 3))
    found = measured(positions, 32, scheme, interlaced=interlaced)
    assert found.shot_noise == pytest.approx(BOX_SIZE**3 / n_particles)
    weights = found.n_modes / found.n_modes.sum()
    ratio = (weights * found.power / found.noise).sum()
    assert ratio == pytest.approx(1, abs=4 * np.sqrt(2 / found.n_modes.sum()))
    deviations = (found.power / found.noise - 1) / np.sqrt(2 / found.n_modes)
    assert np.abs(deviations).max() < 4
    less = measured(positions, 32, scheme, interlaced=interlaced, subtract_shot_noise=True)
    np.testing.assert_allclose(less.power, found.power - found.noise, atol=1e-9)
    np.testing.assert_allclose(less.sample_error, found.sample_error)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("scheme", scheme_names())
def test_shot_noise_is_the_sum_over_images(scheme, interlaced):
    """Sum of W^2 over k + m k_s, m to 3000 along each axis; alternating signs drop odd ones."""
    n, order = 10, scheme_names().index(scheme) + 1
    numbers, images = np.fft.fftfreq(n, 1 / n), np.arange(-3000, 3001)
    windows = np.sinc(numbers[:, None] / n + images) ** (2 * order)
    all_images, signed = windows.sum(1), (windows * (-1.0) ** np.abs(images)).sum(1)

    def cube(a: np.ndarray) -> np.ndarray:
        return a[:, None, None] * a[:, None] * a

    factor = (cube(all_images) + cube(signed)) / 2 if interlaced else cube(all_images)
    factor /= cube(np.sinc(numbers / n) ** (2 * order))
    size = np.sqrt(sum(axis**2 for axis in np.meshgrid(numbers, numbers, numbers)))
    edges = np.arange(0.5, n / 2)
    expected = np.histogram(size, edges, weights=factor)[0] / np.histogram(size, edges)[0]
    how = Estimator(order, interlaced=interlaced)
    found = power_of_modes(fourier_modes(noise_field(n)), BOX_SIZE, None, how, BOX_SIZE**3)
    np.testing.assert_allclose(found.noise, expected, rtol=3e-4)


def test_interlacing_is_the_average_with_the_phase():
    """Of one particle both grids give exp(-i k x) W, so their average does too."""
    position = np.array([[12.3, 45.6, 78.9]])
    n, at = 16, (2, 14, 3)
    modes = fourier_modes(overdensity(position, n, "pcs"))
    interlace(modes, fourier_modes(overdensity(position, n, "pcs", 0.5)))
    numbers = np.array([2, -2, 3])
    # grid points are the centres of cells
    expected = np.exp(-1j * FUNDAMENTAL * (position[0] - BOX_SIZE / n / 2) @ numbers)
    expected *= np.prod(np.sinc(numbers / n) ** 4)
    assert modes[at] / n**3 == pytest.approx(expected, abs=1e-4)


# --- independent codes, the same particles, the same bins ---------------------------------------
# they put grid points at i h: the images in one grid depend on where its points are

HALF_NYQUIST = 16
EDGES = bin_edges(64, BOX_SIZE, k_max=HALF_NYQUIST * FUNDAMENTAL)


def clumpy() -> np.ndarray:
    """Clusters of two sizes on a random background, float32."""
    parts = [clusters(200, 60, 0.7, 2), clusters(40, 300, 2.5, 3), clusters(9000, 1, 1.0, 4)]
    return np.concatenate(parts).astype(np.float32)


def abacus_power(positions: np.ndarray, box_size: float, edges: np.ndarray, **options):
    power_spectrum_of_abacus = pytest.importorskip("abacusnbody.analysis.power_spectrum")
    return power_spectrum_of_abacus.calc_power(
        positions.astype(np.float32), box_size, kbins=edges, nmesh=64, nthread=1, **options
    )


@pytest.mark.filterwarnings("ignore:Note that currently CIC")
@pytest.mark.parametrize("scheme", ["cic", "tsc"])
@pytest.mark.parametrize("interlaced", [False, True])
def test_abacusutils_agrees(scheme, interlaced):
    """Within 0.1 % in every bin up to half the Nyquist frequency.

    Without interlacing abacusutils divides by Jing's sum over images and not by the
    window: what is compared there is not compensated.
    """
    positions = clumpy()
    options = {"interlaced": interlaced, "compensated": interlaced}
    theirs = abacus_power(positions, BOX_SIZE, EDGES, paste=scheme.upper(), **options)
    ours = measured(
        positions, 64, scheme, EDGES, origin="node", interlaced=interlaced, compensate=interlaced
    )
    assert ours.n_modes.tolist() == theirs["N_mode"].tolist()
    np.testing.assert_allclose(ours.k, theirs["k_avg"], rtol=1e-5)
    np.testing.assert_allclose(ours.power, theirs["power"], rtol=1e-5)
    assert len(ours.k) == HALF_NYQUIST


@pytest.mark.parametrize("scheme", scheme_names())
def test_pylians_agrees(scheme):
    """Within 0.1 %; its mass assignment, its transform, its bins between whole numbers."""
    masl = pytest.importorskip("MAS_library", reason="Pylians is not installed")
    pkl = pytest.importorskip("Pk_library", reason="Pylians is not installed")
    positions, cells = clumpy(), np.zeros((64, 64, 64), np.float32)
    masl.MA(positions, cells, BOX_SIZE, scheme.upper())
    cells /= np.float32(len(positions) / cells.size)
    cells -= 1
    theirs = pkl.Pk(cells, BOX_SIZE, 0, scheme.upper(), 1, False)
    edges = FUNDAMENTAL * np.arange(1, HALF_NYQUIST + 2)
    ours = measured(positions, 64, scheme, edges, origin="node")
    np.testing.assert_allclose(ours.k, theirs.k3D[:HALF_NYQUIST], rtol=1e-5)
    np.testing.assert_allclose(ours.power, theirs.Pk[:HALF_NYQUIST, 0], rtol=1e-5)


def test_abacusutils_agrees_on_a_real_snapshot(snapshots):
    """GADGET-4's own particles at z = 0, read by h5py for the one and by our reader for the other.

    In 64 Mpc/h, 64 cells a side: half the Nyquist frequency is 1.57 h/Mpc.
    """
    folder = snapshots / "gadget4_dmo32_multifile/snapdir_003"
    files = sorted(folder.glob("snapshot_003.*.hdf5"))
    parts = []
    for file in files:
        with h5py.File(file) as part:
            parts.append(part["PartType1/Coordinates"][:])
            box_size = float(part["Header"].attrs["BoxSize"])
    positions = np.concatenate(parts)
    header = open_snapshot(files[0]).header
    scale = header.box_size / box_size  # the file may count in kpc/h
    request = Request(n_grid=64, scheme="tsc", interlace=True, k_max=np.pi * 32 / header.box_size)
    (ours,) = measure(files[0], request)
    edges = bin_edges(64, header.box_size, k_max=np.pi * 32 / header.box_size)
    options = {"paste": "TSC", "interlaced": True, "compensated": True}
    theirs = abacus_power(positions * scale, header.box_size, edges, **options)
    assert ours.spectrum.n_modes.tolist() == theirs["N_mode"].tolist()
    np.testing.assert_allclose(ours.spectrum.power, theirs["power"], rtol=1e-5)
    assert ours.n_particles == 32**3
