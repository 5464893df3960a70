"""The order of the layers in DESIGN.md, and what the packages may import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# from the top down; a module imports only modules that stand below it
PIPELINE = [
    "cli",
    "cli_repair",
    "cli_power cli_status cli_verify",
    "cli_options",
    "power_report",
    "snapshot_power",
    "demo",
    "report",
    "repair",
    "repair_manifest repair_ledger",
    "verify_deep",
    "remake",
    "inspect starter verify check status",
    "verify_content verify_ledger verify_manifest pictures",
    "verify_files",
    "samples",
    "moments faults",
    "runners",
    "build",
    "rounds extend",
    "boxes",
    "calls",
    "cluster output_folder",
    "publish",
    "large_box",
    "shard_task",
    "write.shards",
    "write.zarr write.tfrecord",
    "plan_record",
    "disk_space",
    "ledger lock",
    "plan",
    "worker_memory",
    "scratch scratch_cube",
    "quarantine",
    "stream_check",
    "survey",
    "universes",
    "places",
    "parameter_table",
    "mass_field ready_field",
    "augment split subvolume field",
    "deposit",
    "tile_file",
    "read_ahead",
    "readers",
    "simulate",
    "terminal entry software threads",
    "config",
    "yaml_source input_rules",
    "manifest snapshot",
    "units",
    "power_spectrum linear_theory",
    "write.stores",
    "write.local_store write.object_store write.memory_store",
    "write.store write.atomic",
    "errors signals",
]
MODEL = [
    "cli",
    "train",
    "report",
    "evaluate",
    "distribute checkpoint",
    "networks losses schedules",
    "feed",
    "transform",
    "catalog",
    "stores",
    "spec",
    "backend",
]
MODEL_MAY_USE = {"pipeline.manifest", "pipeline.config", "pipeline.errors", "pipeline.entry"}


def modules(package: str) -> list[tuple[str, Path]]:
    folder = ROOT / package
    found = []
    for path in sorted(folder.rglob("*.py")):
        name = ".".join(path.relative_to(folder).with_suffix("").parts)
        found.append((name.removesuffix("__init__").removesuffix("."), path))
    return found


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer(name: str, order: list[str]) -> int | None:
    """Place of module ``name`` in the order, by its longest listed prefix."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        for place, members in enumerate(order):
            if prefix in members.split():
                return place
    return None


@pytest.mark.parametrize(("package", "order"), [("pipeline", PIPELINE), ("cosmoflow_model", MODEL)])
def test_imports_go_downward(package: str, order: list[str]) -> None:
    checked = 0
    for name, path in modules(package):
        if name in ("", "write"):
            continue
        here = layer(name, order)
        assert here is not None, f"{package}.{name} has no place in the order of layers"
        for target in imported(path):
            if not target.startswith(package + "."):
                continue
            inner = target.removeprefix(package + ".")
            there = layer(inner, order)
            assert there is not None, f"{path} imports {target}, which has no layer"
            same = inner.split(".")[0] == name.split(".")[0] and there == here
            assert there > here or same, f"{package}.{name} imports {target}, which is not below it"
            checked += 1
    assert checked > 10


def test_the_two_packages_share_only_the_basics() -> None:
    for name, path in modules("pipeline"):
        assert not any(t.startswith("cosmoflow_model") for t in imported(path)), name
    for name, path in modules("cosmoflow_model"):
        used = {".".join(t.split(".")[:2]) for t in imported(path) if t.startswith("pipeline.")}
        assert used <= MODEL_MAY_USE, f"cosmoflow_model.{name} uses {used - MODEL_MAY_USE}"


def test_tensorflow_stays_in_the_model_and_dask_in_few_files() -> None:
    dask = set()
    for name, path in modules("pipeline"):
        roots = {target.split(".")[0] for target in imported(path)}
        assert not roots & {"tensorflow", "keras"}, name
        if roots & {"dask", "distributed", "dask_mpi"}:
            dask.add(name)
    assert dask == {"boxes", "calls", "cluster", "rounds"}


@pytest.mark.parametrize(
    "statement",
    ["import pipeline", "import pipeline.cli; pipeline.cli.cli(['--help'], standalone_mode=False)"],
)
def test_light_imports(statement: str) -> None:
    """``import pipeline`` and --help load neither TensorFlow nor JAX, nor anything else heavy."""
    code = f"import sys; {statement}; print('LOADED', *sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(out.stdout.split("LOADED")[1].split())
    assert "pipeline" in loaded
    assert not loaded & {"tensorflow", "keras", "jax", "distributed", "matplotlib", "zarr", "numba"}


def test_train_help_is_light() -> None:
    code = (
        "import sys; from cosmoflow_model.cli import cli; cli(['--help'], standalone_mode=False);"
        "print('LOADED', *sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(out.stdout.split("LOADED")[1].split()) & {"tensorflow", "keras", "jax"}
