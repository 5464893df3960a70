"""The CUDA backend: its bits in numba's simulator, its compiled code, refusals without a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from distributed import LocalCluster

from pipeline import cli
from pipeline.build import build
from pipeline.cluster import ClusterChoice
from pipeline.deposit import backend_names, get_backend
from pipeline.errors import MissingDependencyError
from tests.conftest import ROOT
from tests.ensembles_made import all_digests, write_ensemble, write_recipe

NO_DEVICE = {"CUDA_VISIBLE_DEVICES": "-1", "NUMBA_ENABLE_CUDASIM": "0"}
SIMULATOR = {"NUMBA_ENABLE_CUDASIM": "1"}


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )


def test_checks_in_the_simulator() -> None:
    """All of ``cuda_simulated``: the environment must be set before numba is imported."""
    checks = ["tests/cuda_simulated.py", "-q", "-p", "no:cacheprovider", "--noconftest"]
    done = run("-m", "pytest", *checks, **SIMULATOR)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def write_small(root: Path, name: str, weight: str = "count") -> Path:
    write_ensemble(root, n_universes=5, n_particles=64, redshifts=(0.0,))
    grid = {"n_grid": 8, "scheme": "cic", "redshifts": [0.0], "weight": weight}
    return write_recipe(root, f"{name}.yaml", grid=grid, output__path=f"out-{name}")


def test_a_build_in_the_simulator_has_the_same_digests(tmp_path: Path) -> None:
    digests = []
    for backend in backend_names():
        recipe = write_small(tmp_path, backend, "mass")
        options = ["--backend", backend, "--workers", "1"]
        arguments = ["-m", "pipeline.cli", "build", str(recipe), *options]
        done = run(*arguments, cwd=tmp_path, **SIMULATOR)
        assert done.returncode == 0, done.stdout
        digests.append(all_digests(tmp_path / f"out-{backend}"))
    names = [name for name in digests[0] if name != "recipe.yaml"]
    assert len(names) > 3
    assert {n: digests[0][n] for n in names} == {n: digests[1][n] for n in names}


def test_workers_of_a_running_scheduler_are_told_the_backend(tmp_path: Path) -> None:
    """They refuse it here, where they have no device; the machine that starts them may have one."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        env=NO_DEVICE,
    ) as local:
        for weight in ("count", "mass"):
            recipe = write_small(tmp_path, weight, weight)
            with pytest.raises(MissingDependencyError, match="no CUDA device can be used"):
                build(recipe, ClusterChoice(local.scheduler_address), backend="cuda")


def test_the_command_line_knows_all_backends() -> None:
    option = next(p for p in cli.cli.commands["build"].params if p.name == "backend")
    assert tuple(option.type.choices) == backend_names()
    with pytest.raises(KeyError):
        get_backend("opencl")


def test_without_a_device_a_build_says_so(tmp_path: Path) -> None:
    write_ensemble(tmp_path, n_universes=5, n_particles=8)
    recipe = write_recipe(tmp_path)
    arguments = ["-m", "pipeline.cli", "build", str(recipe), "--backend", "cuda"]
    done = run(*arguments, cwd=tmp_path, **NO_DEVICE)
    assert done.returncode == 7, done.stdout
    assert "no CUDA device can be used" in done.stdout
    assert "--backend cpu" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "out").exists()


WITHOUT_NUMBA_CUDA = """
import sys
sys.modules["numba.cuda"] = None
import numpy as np
from pipeline.deposit import assign, get_scheme
from pipeline.errors import MissingDependencyError
grid = np.empty((4, 4, 4))
assign([], grid, 1.0, get_scheme("ngp"))
try:
    assign([], grid, 1.0, get_scheme("ngp"), backend="cuda")
except MissingDependencyError as error:
    print(error)
"""


def test_without_the_library_the_extra_is_named() -> None:
    done = run("-c", WITHOUT_NUMBA_CUDA, **NO_DEVICE)
    assert "pip install 'cosmoflow-prep[cuda]'" in done.stdout, done.stdout


def test_numba_cuda_is_imported_only_when_asked_for() -> None:
    code = "import sys, pipeline.deposit; print('numba.cuda.cudadrv' in sys.modules)"
    assert run("-c", code).stdout.split() == ["False"]


PTX = """
import re
from types import SimpleNamespace
from numba import float32, float64, int64, uint32, void
from numba import cuda
import numba.cuda.dispatcher
device = SimpleNamespace(compute_capability=(8, 0))
numba.cuda.dispatcher.get_current_device = lambda: device
from pipeline.deposit import cuda_kernels as kernels

def fused(text):
    return re.findall(r"fma[.]rn[.]f64", text)

def plain(out, x):
    out[0] = x[0] * 0.3 + 0.1

def compiled(function, *types):
    return cuda.compile_ptx(function, void(*types), cc=(8, 0))[0]

assert fused(compiled(plain, float64[::1], float64[::1])), "the compiler fuses no more"
for position in (float32, float64):
    placing = (int64, float64, float64, int64)
    for grid in (uint32, int64):
        ends = (grid[::1], int64[::1])
        text = compiled(kernels.add_points.py_func, position[::1], int64[::1], *placing, *ends)
        assert not fused(text) and "atom.global.add" in text
    for kernel in kernels.CLOUD_KERNELS.values():
        ends = (int64[::1], int64[::1])
        text = compiled(kernel.py_func, position[::1], int64[::1], float64, *placing, *ends)
        assert not fused(text) and "atom.global.add.u64" in text
        assert "ld.local" not in text, "the sums of weights are not in registers"
print("compiled")
"""


@pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="needs the extra 'cuda', not a GPU"
)
def test_the_compiler_fuses_nothing() -> None:
    """Code for a real device, without one: no product is added to without being rounded."""
    done = run("-c", PTX, **NO_DEVICE)
    assert done.stdout.split() == ["compiled"], done.stdout
