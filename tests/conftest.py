from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster

from pipeline.cluster import ClusterChoice
from tests.ensembles_made import write_ensemble, write_recipe
from tests.extensions_made import LATER

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def cluster() -> Iterator[ClusterChoice]:
    """Two worker processes that builds of one test session share."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    ) as local:
        yield ClusterChoice(local.scheduler_address)


@pytest.fixture(scope="session")
def snapshots() -> Path:
    """Folder of real snapshots, which are not part of the project."""
    folder = Path(os.environ.get("COSMOFLOW_SNAPSHOTS", ROOT.parent / "shared" / "snapshots"))
    if not (folder / "MANIFEST.tsv").is_file():
        pytest.skip(f"no real snapshots in {folder}; set COSMOFLOW_SNAPSHOTS to their folder")
    return folder


@pytest.fixture(scope="session")
def _ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ensemble")
    write_ensemble(root)
    return root


@pytest.fixture
def ensemble(_ensemble: Path, tmp_path: Path) -> Path:
    """Folder of its own with ten universes, cosmology.csv and recipe.yaml."""
    root = tmp_path / "project"
    shutil.copytree(_ensemble, root)
    write_recipe(root)
    return root


@pytest.fixture(scope="session")
def _grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("grown")
    write_ensemble(root, n_universes=15)
    (root / "later").mkdir()
    for name in LATER:
        shutil.move(root / "sims" / name, root / "later" / name)
    return root


@pytest.fixture
def growing(_grown: Path, tmp_path: Path) -> Path:
    """Ten universes in ``sims``, five more in ``later``, and recipe.yaml."""
    root = tmp_path / "project"
    shutil.copytree(_grown, root)
    write_recipe(root)
    return root


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def prep(tmp_path: Path) -> Run:
    """Run ``cosmoflow-prep`` as a user does, in a process of its own."""

    def run(*arguments: object, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        return subprocess.run(
            command,
            check=False,
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )

    return run
