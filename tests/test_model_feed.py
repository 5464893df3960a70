"""The order, the ranks' slices, the symmetries and the batches of a feed."""

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

from cosmoflow_model.catalog import Catalog
from cosmoflow_model.feed import Feed
from cosmoflow_model.transform import (
    SYMMETRIES,
    Augmentation,
    apply_augmentation,
    apply_symmetry,
    channel_statistics,
    draw_augmentation,
    log_counts,
)
from pipeline.errors import DatasetError, TrainingError
from tests.datasets_made import make_dataset, scaled


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    root = tmp_path_factory.mktemp("feed") / "set"
    return Catalog.open(make_dataset(root, counts=(13, 3, 0)).root)


def _train(catalog: Catalog, batch_size: int = 4, **options: object) -> Feed:
    return Feed(catalog, "train", batch_size, **{"seed": 3, "shuffle": True, **options})


def test_each_epoch_is_another_permutation_of_all_samples(catalog: Catalog) -> None:
    feed = _train(catalog)
    orders = [feed.order(epoch) for epoch in range(5)]
    for order in orders:
        assert sorted(order) == list(range(13))
    assert len({tuple(order) for order in orders}) == 5
    np.testing.assert_array_equal(orders[2], _train(catalog).order(2))
    assert tuple(orders[0]) != tuple(_train(catalog, seed=4).order(0))


def test_an_epoch_drops_nothing(catalog: Catalog) -> None:
    sizes = [len(batch.samples) for batch in _train(catalog).batches(0)]
    assert sizes == [4, 4, 4, 1]
    assert _train(catalog).steps == 4


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_interleave_to_the_batches_of_one(catalog: Catalog, size: int) -> None:
    whole = list(_train(catalog, augment=True).batches(1))
    parts = [
        list(_train(catalog, augment=True, rank=rank, size=size).batches(1)) for rank in range(size)
    ]
    assert {len(part) for part in parts} == {len(whole)}
    for step, batch in enumerate(whole):
        slices = [part[step] for part in parts]
        assert len({len(one.samples) for one in slices}) == 1
        # interleaved: sample k of the global batch is with rank k % size
        merged = np.stack([one.samples for one in slices], axis=1).ravel()
        weight = np.stack([one.weight for one in slices], axis=1).ravel()
        x = np.stack([one.x for one in slices], axis=1).reshape(-1, *batch.x.shape[1:])
        np.testing.assert_array_equal(merged[weight > 0], batch.samples)
        np.testing.assert_array_equal(x[weight > 0], batch.x)


@pytest.mark.parametrize("size", [2, 4])
def test_mean_over_ranks_is_the_mean_over_samples(catalog: Catalog, size: int) -> None:
    values = np.random.default_rng(0).random(13)
    for step, batch in enumerate(_train(catalog).batches(0)):
        slices = [
            list(_train(catalog, rank=rank, size=size).batches(0))[step] for rank in range(size)
        ]
        means = [np.mean(one.weight * values[one.samples]) for one in slices]
        assert np.mean(means) == pytest.approx(values[batch.samples].mean())


def test_batches_are_log_counts_and_scaled_targets(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "set")
    feed = Feed(Catalog.open(made.root), "validation", 3)
    batches = list(feed.batches(0))
    np.testing.assert_allclose(
        np.concatenate([batch.x for batch in batches]),
        np.log1p(made.cubes["validation"].astype(np.float64)),
        rtol=1e-6,
    )
    expected = scaled(made.parameters["validation"])
    np.testing.assert_allclose(np.concatenate([batch.y for batch in batches]), expected, atol=1e-6)


def test_all_ways_of_reading_agree(catalog: Catalog) -> None:
    feed = _train(catalog, augment=True)
    plain = list(feed.batches(2))
    ahead = list(feed.prefetched(2))
    uncached = list(_train(catalog, augment=True, cache_bytes=0).batches(2))
    dataset = list(feed.dataset(2).as_numpy_iterator())
    for one, two, three, four in zip(plain, ahead, uncached, dataset, strict=True):
        for left, right in [*zip(one, two, strict=True), *zip(one, three, strict=True)]:
            np.testing.assert_array_equal(left, right)
        for left, right in zip(one[:3], four, strict=True):
            np.testing.assert_array_equal(left, right)


def test_starts_at_any_step(catalog: Catalog) -> None:
    feed = _train(catalog, augment=True)
    rest = list(feed.batches(1, first_step=2))
    for left, right in zip(list(feed.batches(1))[2:], rest, strict=True):
        np.testing.assert_array_equal(left.x, right.x)


def test_error_of_the_reading_thread_arrives_and_leaving_early_ends_it(tmp_path: Path) -> None:
    catalog = Catalog.open(make_dataset(tmp_path / "set").root)
    for _ in Feed(catalog, "train", 1).prefetched(0, depth=1):
        break
    (catalog.root / catalog.manifest.shards[0].path).write_bytes(b"nothing")
    with pytest.raises(DatasetError, match="damaged"):
        list(Feed(catalog, "train", 4).prefetched(0))


def test_batch_that_does_not_divide_by_the_ranks_is_refused(catalog: Catalog) -> None:
    with pytest.raises(TrainingError, match="batch size 3 does not divide by 2 ranks"):
        Feed(catalog, "train", 3, size=2)


def _matrix(symmetry: int) -> tuple[tuple[int, ...], ...]:
    """The signed permutation that a symmetry is, found from what it does to a cube."""
    coordinates = np.stack(np.meshgrid(*[[-1, 1]] * 3, indexing="ij"), axis=-1)
    moved = apply_symmetry(coordinates, symmetry)
    corners = coordinates.reshape(8, 3).astype(float)
    solved = np.linalg.lstsq(corners, moved.reshape(8, 3), rcond=None)[0]
    return tuple(tuple(int(v) for v in np.round(row)) for row in solved)


def test_symmetries_are_the_48_of_the_cube() -> None:
    found = {_matrix(symmetry) for symmetry in range(SYMMETRIES)}
    signed = set()
    for axes, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        matrix = np.zeros((3, 3), int)
        matrix[range(3), axes] = signs
        signed.add(tuple(map(tuple, matrix.tolist())))
    assert found == signed
    assert len(found) == 48
    closed = {tuple(map(tuple, (np.array(a) @ np.array(b)).tolist())) for a in found for b in found}
    assert closed == found


def test_symmetries_move_every_cell_once() -> None:
    cube = np.random.default_rng(1).integers(0, 1000, (4, 4, 4, 2))
    views = [apply_symmetry(cube, symmetry) for symmetry in range(SYMMETRIES)]
    np.testing.assert_array_equal(views[0], cube)
    assert len({view.tobytes() for view in views}) == 48
    for view in views:
        np.testing.assert_array_equal(
            np.sort(view.reshape(-1, 2), axis=0), np.sort(cube.reshape(-1, 2), axis=0)
        )


def test_draws_are_uniform_and_repeatable() -> None:
    draws = [draw_augmentation(1, 0, sample, (8, 8, 8), True) for sample in range(4800)]
    counts = np.bincount([draw.symmetry for draw in draws], minlength=48)
    assert counts.min() > 50
    assert counts.max() < 160
    assert {draw.shift[0] for draw in draws} == set(range(8))
    assert draws[7] == draw_augmentation(1, 0, 7, (8, 8, 8), True)
    assert draw_augmentation(1, 0, 7, (8, 8, 8), False).shift == (0, 0, 0)


def test_shift_is_periodic() -> None:
    cube = np.arange(64).reshape(4, 4, 4, 1)
    moved = apply_augmentation(cube, Augmentation(0, (1, 2, 3)))
    for x, y, z in product(range(4), repeat=3):
        assert moved[(x + 1) % 4, (y + 2) % 4, (z + 3) % 4] == cube[x, y, z]


def test_log_of_the_largest_counts_is_finite() -> None:
    cube = np.array([0, 1, 65535], np.uint16).reshape(1, 1, 3, 1)
    np.testing.assert_allclose(log_counts(cube).ravel(), np.log1p([0, 1, 65535]), rtol=1e-6)


def test_statistics_are_those_of_the_log_counts(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "set", counts=(20, 1, 0))
    found = Feed(Catalog.open(made.root), "train", 4).statistics()
    logs = np.log1p(made.cubes["train"].astype(np.float64)).reshape(-1, 2)
    np.testing.assert_allclose(found.mean, logs.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.variance, logs.var(axis=0), rtol=1e-4)
    assert channel_statistics([np.zeros((2, 2, 2, 3))]).variance == (1.0, 1.0, 1.0)
