"""A recipe, software or input that changed is refused, and the message shows what changed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import pytest

from pipeline import ledger
from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.errors import InputError, OutputError
from pipeline.manifest import load
from pipeline.readers.fingerprint import fingerprint
from pipeline.rounds import Progress
from pipeline.verify import verify
from tests.ensembles_made import write_recipe
from tests.test_status import build_part


def move_a_particle(path: Path) -> None:
    """Another content under the same header."""
    with h5py.File(path, "r+") as file:
        file["PartType1/Coordinates"][0] += 1000.0


@pytest.fixture
def stopped(ensemble: Path, cluster: ClusterChoice) -> Path:
    build_part(ensemble / "recipe.yaml", cluster, 2)
    return ensemble


def lines_of(error: Exception) -> list[str]:
    return [line.strip() for line in str(error).splitlines()]


def test_a_line_for_every_key_of_the_recipe(stopped: Path, cluster: ClusterChoice) -> None:
    """Fault row 12: old and new value, and what to do."""
    recipe = write_recipe(
        stopped, split__seed=8, grid__scheme="cic", targets={"Omega_m": [0.1, 0.6]}
    )
    with pytest.raises(OutputError) as caught:
        build(recipe, cluster, resume=True)
    first, *lines, last = lines_of(caught.value)
    assert first.startswith(f"{stopped / 'out'}: was begun with another recipe")
    assert "grid.scheme: ngp there, cic asked" in lines
    assert "split.seed: 7 there, 8 asked" in lines
    assert "targets.Omega_m: [0.1, 0.5] there, [0.1, 0.6] asked" in lines
    assert "targets.n_s: [0.8, 1.2] there, nothing asked" in lines
    assert last == f"restore them, or remove {stopped / 'out'} to start again"


def test_a_line_for_every_package(stopped: Path, cluster: ClusterChoice) -> None:
    path = stopped / "out/ledger/software.json"
    there = json.loads(path.read_text())
    path.write_text(json.dumps({**there, "numpy": "1.0", "zarr": "2.0"}))
    with pytest.raises(OutputError) as caught:
        build(stopped / "recipe.yaml", cluster, resume=True)
    lines = lines_of(caught.value)
    assert f"software numpy: 1.0 there, {there['numpy']} now" in lines
    assert f"software zarr: 2.0 there, {there['zarr']} now" in lines


def test_an_input_that_changed_between_two_runs(stopped: Path, cluster: ClusterChoice) -> None:
    """Fault row 13: file, and the fingerprints of both."""
    entry = next(iter(ledger.read(stopped / "out").values()))
    universe = entry.universes[0]
    changed = stopped / universe.snapshots[1].files[0]
    before = fingerprint([changed])
    raw = changed.read_bytes()
    move_a_particle(changed)
    with pytest.raises(InputError) as caught:
        build(stopped / "recipe.yaml", cluster, resume=True)
    first, line, last = lines_of(caught.value)
    assert first == f"universe {universe.id!r}: its snapshots changed since the build was begun:"
    assert before != fingerprint([changed])
    assert line.startswith("redshift 1, ")
    assert changed.name in line
    assert line.endswith(f"fingerprint {before} then, {fingerprint([changed])} now")
    assert last.startswith("restore them, or remove")
    changed.write_bytes(raw)
    assert verify(build(stopped / "recipe.yaml", cluster, resume=True).output).passed


def test_parameters_that_changed_between_two_runs(stopped: Path, cluster: ClusterChoice) -> None:
    table = stopped / "cosmology.csv"
    good = table.read_text()
    lines = good.splitlines()
    name, *values = lines[3].split(",")
    lines[3] = ",".join([name, *values[:-1], "0.9123"])
    table.write_text("\n".join(lines))
    with pytest.raises(InputError) as caught:
        build(stopped / "recipe.yaml", cluster, resume=True)
    assert f"n_s: {float(values[-1])} then, 0.9123 now" in lines_of(caught.value)
    table.write_text(good)
    assert verify(build(stopped / "recipe.yaml", cluster, resume=True).output).passed


@pytest.mark.parametrize("strict", [True, False])
def test_an_input_that_changes_between_its_survey_and_its_task(
    ensemble: Path, cluster: ClusterChoice, strict: bool
) -> None:
    """Its record would be of what it was, its cells of what it is."""
    changed = ensemble / "sims/u003/snap_0.hdf5"
    before = fingerprint([changed])

    def change(progress: Progress) -> None:
        surveyed = progress.stage == "survey" and progress.done == progress.total
        if surveyed and fingerprint([changed]) == before:
            move_a_particle(changed)

    recipe = ensemble / "recipe.yaml"
    if strict:
        with pytest.raises(InputError) as caught:
            build(recipe, cluster, report=change, strict=True)
        reason = str(caught.value)
    else:
        build(recipe, cluster, report=change)
        manifest = load(ensemble / "out")
        assert [universe.id for universe in manifest.quarantined] == ["u003"]
        assert verify(ensemble / "out").passed
        reason = manifest.quarantined[0].reason
    assert re.search(
        rf"snap_0\.hdf5: changed while the build ran: fingerprint {before} when it was surveyed, "
        rf"{fingerprint([changed])} when it was read",
        reason,
    )
