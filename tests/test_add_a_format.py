"""The worked example of docs/add-a-format.md does what the page says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pipeline.errors import SnapshotError
from pipeline.readers import get_reader, open_snapshot, reader_names, registry
from pipeline.readers.discover import find_snapshots
from pipeline.snapshot import ReadOptions

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "add-a-format.md"


def block(name: str) -> str:
    """The code after the comment ``<!-- name -->``."""
    [code] = re.findall(rf"<!-- {name} -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return code


def load(name: str, folder: Path) -> ModuleType:
    path = folder / f"page_{name}.py"
    path.write_text(block(name))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The page's tests, with its format registered for as long as the test runs."""
    monkeypatch.setattr(registry, "_readers", dict(registry._readers))
    code = tmp_path / "code"
    code.mkdir()
    load("module", code)
    yield load("test", code)
    assert "simple" in reader_names()


def test_the_tests_of_the_page_pass(page, tmp_path):
    names = [name for name in dir(page) if name.startswith("test_")]
    assert names == ["test_every_truncation_is_found", "test_positions_to_the_last_bit"]
    for name in names:
        getattr(page, name)(tmp_path)


def test_the_format_is_found_and_takes_options(page, tmp_path):
    path = tmp_path / "snaps" / "snap.simple"
    path.parent.mkdir()
    kpc = page.write_simple(path)
    assert find_snapshots(path.parent) == [(path,)]
    options = ReadOptions(format="simple", redshift=2.0, Omega_m=0.31, h=0.7)
    header = open_snapshot(path, ReadOptions(**(vars(options) | {"override": True}))).header
    assert (header.redshift, header.Omega_m, header.h) == (2.0, 0.31, 0.7)
    assert header.n_particles == len(kpc)
    with pytest.raises(SnapshotError, match="no particles of the chosen types"):
        open_snapshot(path, ReadOptions(particle_types=(0,)))
    with pytest.raises(SnapshotError, match=r"snap\.simple: is in kpc/h"):
        open_snapshot(path, ReadOptions(length_unit="Mpc/h"))


def test_a_count_is_compared_with_the_file_before_it_is_believed(page, tmp_path):
    path = tmp_path / "snap.simple"
    page.write_simple(path)
    data = bytearray(path.read_bytes())
    data[8:16] = np.uint64(1 << 60).tobytes()
    path.write_bytes(data)
    with pytest.raises(SnapshotError, match="expected 13835058055282163760 for its"):
        open_snapshot(path)


def test_the_example_leaves_no_trace():
    assert "simple" not in reader_names()


def test_the_page_names_what_there_is():
    text = PAGE.read_text()
    for name in re.findall(r"`([a-z_0-9]+)(?:\.[a-z_]+)?` \(", text):
        if name in ("multifile", "gadget_header", "hdf5_safe", "records", "raw_positions"):
            assert (ROOT / f"pipeline/readers/{name}.py").is_file(), name
    for path in re.findall(r"`(tests/\w+\.py)`", text):
        assert (ROOT / path).is_file(), path
    assert all(hasattr(get_reader(name), "sniff") for name in reader_names())


def test_the_code_of_the_page_is_clean(tmp_path):
    path = tmp_path / "simple.py"
    path.write_text(block("module"))
    for arguments in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--config", ROOT / "pyproject.toml"]
        done = subprocess.run([*command, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
