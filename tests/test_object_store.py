"""Data sets at URLs: the promises of every store, and real builds on an S3-compatible server."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from distributed import LocalCluster
from fsspec.implementations.memory import MemoryFileSystem
from moto.server import ThreadedMotoServer

from cosmoflow_model.catalog import Catalog
from cosmoflow_model.cli import cli as train_cli
from pipeline import ledger, lock
from pipeline.build import build
from pipeline.cli import cli
from pipeline.cluster import ClusterChoice
from pipeline.config import load_recipe
from pipeline.errors import (
    CosmoflowError,
    DatasetError,
    MissingDependencyError,
    OutputError,
    RecipeError,
)
from pipeline.lock import holder_of, locked, refuse_held
from pipeline.manifest import load
from pipeline.report import write_report
from pipeline.samples import universe_cube
from pipeline.verify import verify
from pipeline.write.local_store import LocalStore
from pipeline.write.object_store import ObjectStore
from pipeline.write.store import Store, StoreError
from pipeline.write.stores import open_store
from tests.conftest import ROOT
from tests.ensembles_made import write_ensemble, write_recipe

BUCKET = "universes"


@dataclass(frozen=True)
class Server:
    """A running S3-compatible server, and a client of it that is not ours."""

    endpoint: str
    client: Any

    def keys(self, prefix: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return sorted(o["Key"] for page in pages for o in page.get("Contents", []))

    def get(self, key: str) -> bytes:
        raw: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return raw

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)


def one_by_one(server: ThreadedMotoServer) -> None:
    """Let the server answer requests in turn: looking and writing is one step, as on S3."""
    assert server._server is not None
    answer, turn = server._server.app, threading.Lock()

    def in_turn(*arguments: Any) -> Any:
        with turn:
            return list(answer(*arguments))

    server._server.app = in_turn


@pytest.fixture(scope="module")
def s3() -> Iterator[Server]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    one_by_one(server)
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield Server(f"http://{host}:{port}", client)
    server.stop()


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def prep(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return subprocess.run(
        command(*arguments),
        check=False,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )


def in_process(*arguments: object) -> str:
    """Run a command that starts no workers; its standard output."""
    result = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


# ---------------------------------------------------------------- what every store promises


@pytest.fixture(params=["local", "memory", "local-like", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return LocalStore(tmp_path / "set")
    if request.param == "memory":
        return open_store(f"memory://{tmp_path.name}/set")
    if request.param == "local-like":
        # a file system without rename as far as the store knows
        return ObjectStore(f"file://{tmp_path}/set")
    request.getfixturevalue("s3")
    return open_store(f"s3://{BUCKET}/{tmp_path.name}/set/")


def test_files_are_written_read_listed_and_removed(store: Store) -> None:
    assert not store.exists()
    assert store.names() == []
    assert store.paths() == []
    store.make()
    data = np.random.default_rng(0).bytes((1 << 24) + 5)
    store.write("a/b/large", bytearray(data))
    store.write("a/c[1]*?.json", memoryview(b"{}"))
    store.write("z", b"first")
    store.write("z", b"")
    assert store.exists()
    assert store.exists("a")
    assert store.exists("a/b/large")
    assert not store.exists("a/b/larg")
    assert store.names() == ["a", "z"]
    assert store.paths() == ["a/b/large", "a/c[1]*?.json", "z"]
    assert store.paths("a/b") == ["a/b/large"]
    assert store.paths("a/bb") == []
    assert store.read("a/b/large") == data
    assert store.read("z") == b""
    assert b"".join(store.blocks("a/b/large")) == data
    assert max(map(len, store.blocks("a/b/large"))) <= 1 << 24
    assert list(store.blocks("z")) == []
    assert store.read_range("a/b/large", 7, 11) == data[7:18]
    assert store.read_range("a/b/large", len(data) - 3, 11) == data[-3:]
    assert store.read_range("z", 0, 4) == b""
    assert list(store.read_all(["a/c[1]*?.json", "z"])) == [b"{}", b""]
    assert (store.size("a/b/large"), store.size("z"), store.size("a"), store.size("no")) == (
        len(data),
        0,
        None,
        None,
    )
    store.remove("a/c[1]*?.json")
    store.remove("a/c[1]*?.json")
    assert store.paths() == ["a/b/large", "z"]
    store.remove_all()
    assert store.paths() == []


def test_reading_what_is_not_there(store: Store) -> None:
    store.make()
    for read in (store.read, lambda path: list(store.blocks(path))):
        with pytest.raises(FileNotFoundError):
            read("nothing")
    with pytest.raises(FileNotFoundError):
        list(store.read_all(["nothing"]))


def test_a_store_travels_and_says_where_it_is(store: Store) -> None:
    store.make()
    store.write("folder/file", b"there")
    again: Store = pickle.loads(pickle.dumps(store))
    assert again == store
    assert again.read("folder/file") == b"there"
    assert str(store.address("folder/file")).startswith(str(store))
    assert str(store.address("folder/file")).endswith("/set/folder/file")
    assert not store.is_link_out("folder/file")


def test_of_all_who_create_a_file_one_does(store: Store) -> None:
    store.make()
    for round_ in range(3):
        got: list[bytes] = []
        gate = threading.Barrier(6)

        def try_it(
            number: int, name: str = f"lock{round_}", gate: Any = gate, got: Any = got
        ) -> None:
            gate.wait()
            if store.create(name, b"%d" % number):
                got.append(b"%d" % number)

        threads = [threading.Thread(target=try_it, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == [store.read(f"lock{round_}")]
    assert store.paths() == ["lock0", "lock1", "lock2"]


def test_lines_of_a_journal_stay_in_order(store: Store) -> None:
    store.make()
    for number in range(12):
        store.append("ledger/a.jsonl", b"%d\n" % number)
    store.append("ledger/b.jsonl", b"b\n")
    names = [path for path in store.paths("ledger") if path.endswith(".jsonl")]
    lines = b"".join(store.read_all(names)).splitlines()
    assert lines == [*(b"%d" % n for n in range(12)), b"b"]


def test_leftovers_are_swept(store: Store) -> None:
    store.make()
    store.write("a/.shard.17.tmp", b"half")
    store.write("a/shard.tmp", b"whole")
    store.sweep()
    assert store.paths() == ["a/shard.tmp"]


def test_the_lock_names_its_holder(store: Store) -> None:
    with locked(store):
        held = holder_of(store)
        assert held is not None
        assert (held[0].host, held[0].pid) == (socket.gethostname(), os.getpid())
        assert held[1] is not None
        assert held[1] < 60
        with pytest.raises(OutputError, match=rf"process {os.getpid()} on .*remove .*/set/\.lock"):
            refuse_held(store)
        with pytest.raises(OutputError, match="another build holds it"), locked(store):
            pass
    refuse_held(store)
    assert holder_of(store) is None
    assert store.paths() == []


def dead_process() -> int:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    return dead.pid


def test_of_many_who_find_a_stale_lock_one_gets_it(store: Store) -> None:
    """Also where one died while it took over."""
    stale = json.dumps({"host": socket.gethostname(), "pid": dead_process()}).encode()
    store.make()
    for claimed_by_a_dead_one in (False, True):
        store.write(".lock", stale)
        if claimed_by_a_dead_one:
            store.write(lock._claim_name(".lock", stale), stale)
        gate, done = threading.Barrier(4), threading.Event()
        answers: list[str] = []

        def take(gate: Any = gate, done: Any = done, answers: Any = answers) -> None:
            gate.wait()
            try:
                with locked(store) as hold:
                    hold.check()
                    answers.append("got it")
                    assert done.wait(60)
            except OutputError:
                answers.append("refused")

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while len(answers) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        done.set()
        for thread in threads:
            thread.join()
        assert sorted(answers) == ["got it", *["refused"] * 3]
        assert store.paths() == []


def test_a_lock_of_another_host_is_explained_and_never_taken(store: Store) -> None:
    """Fault row 10, where nobody can ask whether the process lives."""
    store.make()
    held = {"host": "elsewhere", "pid": 77, "token": "abc", "since": time.time() - 3000}
    store.write(".lock", json.dumps(held).encode())
    with pytest.raises(OutputError) as caught, locked(store):
        pass
    message = str(caught.value)
    assert "process 77 on elsewhere, but no sign of life for 50 minutes" in message
    assert f"remove {store.address('.lock')}" in message
    store.write(".lock.abc.tmp", json.dumps(time.time() - 30).encode())
    with pytest.raises(OutputError) as caught:
        refuse_held(store)
    assert "no sign of life" not in str(caught.value)
    assert "wait for it" in str(caught.value)
    store.write(".lock", b"{")
    with pytest.raises(OutputError, match="an unknown process"), locked(store):
        pass
    assert store.read(".lock") == b"{"


def test_a_holder_gives_signs_of_life(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with locked(store) as hold:
        deadline = time.monotonic() + 60
        held = holder_of(store)
        assert held is not None
        while not store.exists(f".lock.{held[0].token}.tmp"):
            assert time.monotonic() < deadline
        hold.check()
        # somebody removed the lock, and another build took it
        other = json.dumps({"host": "elsewhere", "pid": 1}).encode()
        store.write(".lock", other)
        with pytest.raises(OutputError, match="was removed while it ran"):
            hold.check()
    assert store.paths() == [".lock"]
    assert store.read(".lock") == other


# ---------------------------------------------------------------- URLs and refusals


def test_places() -> None:
    assert open_store("file:///data/set") == LocalStore(Path("/data/set"))
    assert open_store("out", Path("/base")) == LocalStore(Path("/base/out"))
    assert open_store("s3://b/x/", Path("/base")) == ObjectStore("s3://b/x")
    assert open_store(Path("s3")).local == Path("s3")
    store = open_store("memory://b/x")
    assert open_store(store) is store
    assert store.local is None
    assert store.free_bytes() is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s4://bucket/set", "s4:// is not known"),
        ("simplecache::s3://bucket/set", "chained"),
        ("s3://", "expected s3://bucket/folder"),
        ("s3://bucket/../other", "without '..'"),
        ("sftp://me:word@host/set", "a password in a URL"),
    ],
)
def test_urls_that_no_data_set_can_have(tmp_path: Path, url: str, expected: str) -> None:
    recipe = write_recipe(tmp_path, output__path=url)
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe)
    assert "output.path" in str(caught.value)
    assert expected in str(caught.value)
    assert "word" not in str(caught.value).replace("password", "")
    with pytest.raises(OutputError):
        open_store(url)


def test_a_library_that_is_not_installed() -> None:
    with pytest.raises(MissingDependencyError, match=r"dropbox://.*no library"):
        open_store("dropbox://bucket/set").exists("manifest.json")


class CarelessFileSystem(MemoryFileSystem):
    """Takes the condition of a PUT and writes all the same, as some servers do."""

    protocol = "careless"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value, mode="overwrite", **kwargs)


def test_a_server_that_ignores_the_condition_is_found() -> None:
    fsspec.register_implementation("careless", CarelessFileSystem, clobber=True)
    store = ObjectStore("careless://bucket/set")
    with pytest.raises(OutputError, match=r"careless://bucket/set: .*If-None-Match"), locked(store):
        pass
    assert store.paths() == []


def test_a_bucket_that_is_not_there(s3: Server, tmp_path: Path) -> None:
    store = open_store("s3://nobody-made-it/set")
    expected = r"s3://nobody-made-it/set/.*no such bucket"
    with pytest.raises(StoreError, match=expected), locked(store):
        pass
    assert "nobody-made-it" not in str(s3.client.list_buckets()["Buckets"])
    with pytest.raises(DatasetError, match="no data set"):
        verify("s3://nobody-made-it/set")


def test_a_server_that_does_not_answer_and_no_credentials(s3: Server, tmp_path: Path) -> None:
    """In a process of its own: connections are remembered."""
    write_recipe(tmp_path, output__path=f"s3://{BUCKET}/never")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{closed.getsockname()[1]}"}
        nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "HOME": str(tmp_path)}
        started = [
            subprocess.Popen(
                command("verify", f"s3://{BUCKET}/never"),
                env={**environment(), **changes},
                stderr=subprocess.PIPE,
                text=True,
            )
            for changes in (nowhere, nobody)
        ]
        for process, expected in zip(started, ("no answer", "no credentials"), strict=True):
            _, errors = process.communicate(timeout=120)
            assert process.returncode == OutputError.exit_code, errors
            assert f"error: s3://{BUCKET}/never/manifest.json: {expected}" in errors
            assert "Traceback" not in errors


def test_access_denied(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    async def refuse(self: Any, *arguments: Any, **options: Any) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", refuse)
    with pytest.raises(StoreError, match=r"s3://.*access denied .*rights on the bucket") as caught:
        open_store(f"s3://{BUCKET}/x").write("a", b"a")
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), StoreError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_defects_of_ours_are_not_called_errors_of_the_store(s3: Server) -> None:
    with pytest.raises(TypeError):
        open_store(f"s3://{BUCKET}/x").write("a", 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["fit", "evaluate"])
def test_the_trainer_asks_for_a_copy(word: str) -> None:
    arguments = ["evaluate", "run", "--dataset"] if word == "evaluate" else ["fit"]
    result = CliRunner().invoke(train_cli, [*arguments, "s3://bucket/set"])
    assert result.exit_code == 2
    assert "copy" in result.output
    with pytest.raises(DatasetError, match="copy"):
        Catalog.open("s3://bucket/set")


# ---------------------------------------------------------------- builds


def files_of(output: Path) -> dict[str, str]:
    """Digest of every file of a local data set that does not hold its own place."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in output.rglob("*")
        if path.is_file() and is_content(name := path.relative_to(output).as_posix())
    }


def is_content(name: str) -> bool:
    return name not in ("recipe.yaml", "manifest.json") and not name.startswith("ledger/")


def objects_of(s3: Server, prefix: str) -> dict[str, str]:
    found = {key.removeprefix(f"{prefix}/"): key for key in s3.keys(f"{prefix}/")}
    return {
        name: hashlib.sha256(s3.get(key)).hexdigest()
        for name, key in found.items()
        if is_content(name)
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    write_ensemble(root)
    write_recipe(root)
    return root


@pytest.fixture(scope="module")
def built(s3: Server, project: Path) -> str:
    """URL of a data set that two real workers built on the server."""
    recipe = write_recipe(project, "s3.yaml", output__path=f"s3://{BUCKET}/built")
    done = prep("build", recipe, "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["output"] == f"s3://{BUCKET}/built"
    return str(facts["output"])


@pytest.fixture(scope="module")
def reference(project: Path, cluster: ClusterChoice) -> Path:
    """The same data set in a folder."""
    output = build(project / "recipe.yaml", cluster).output
    assert isinstance(output, Path)
    return output


def test_the_same_bytes_as_in_a_folder(s3: Server, built: str, reference: Path) -> None:
    assert objects_of(s3, "built") == files_of(reference)
    assert len(files_of(reference)) > 30
    there, here = load(built), load(reference)
    changes = {"files": [f for f in here.files if f.path != "recipe.yaml"]}
    mine = {"files": [f for f in there.files if f.path != "recipe.yaml"]}
    assert there.model_copy(update=mine) == here.model_copy(update=changes)
    left = [k for k in s3.keys("built/") if ".lock" in k or k.endswith(".tmp")]
    assert left == []
    assert ledger.read(built).keys() == ledger.read(reference).keys()


def test_zarr_and_xarray_read_it_by_its_url(built: str, reference: Path) -> None:
    for split in load(reference).splits:
        theirs = xr.open_zarr(f"{built}/{split}.zarr").load()
        xr.testing.assert_identical(theirs, xr.open_zarr(reference / f"{split}.zarr").load())
        assert theirs["density"].sum() > 0
    group = zarr.open_group(f"{built}/train.zarr", mode="r")
    assert group["density"].shape[1:] == (4, 4, 4, 2)


def test_verify_inspect_and_report(s3: Server, built: str, reference: Path, tmp_path: Path) -> None:
    assert "is whole" in in_process("verify", built)
    facts = json.loads(in_process("inspect", built, "--json", "--picture", tmp_path / "p.png"))
    ours = json.loads(in_process("inspect", reference, "--json"))
    assert facts["path"] == built
    for key in ("kind", "samples", "shards", "particles", "targets"):
        assert facts[key] == ours[key]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    cube = universe_cube(built, load(built), "u003")
    np.testing.assert_array_equal(cube, universe_cube(reference, load(reference), "u003"))
    assert write_report(built) == f"{built}/report.html"
    assert s3.get("built/report.html").startswith(b"<!doctype html>")
    assert verify(built).passed


def test_nothing_is_overwritten(built: str, project: Path) -> None:
    again = prep("build", project / "s3.yaml", "--resume")
    assert again.returncode == 5
    assert f"{built}: there is a finished data set; nothing was changed" in again.stderr


def test_objects_that_are_damaged_deleted_or_added_are_found(s3: Server, built: str) -> None:
    """Fault rows 14 and 15."""
    manifest = load(built)
    files = {f.path: s3.get(f"built/{f.path}") for f in (*manifest.shards, *manifest.files)}
    first, second, third, *_ = files
    changed = bytearray(files[first])
    changed[len(changed) // 2] ^= 1
    s3.put(f"built/{first}", bytes(changed))
    s3.put(f"built/{second}", files[second][:-1])
    s3.client.delete_object(Bucket=BUCKET, Key=f"built/{third}")
    s3.put("built/train.zarr/stranger", b"?")
    faults = verify(built).faults
    assert faults[0].startswith(f"{first}: changed")
    assert faults[1].startswith(
        f"{second}: {len(files[second]) - 1} bytes, expected {len(files[second])}"
    )
    assert faults[2].startswith(f"{third}: missing, expected {len(files[third])} bytes")
    assert faults[3:] == ["train.zarr/stranger: not in manifest.json"]
    for path in (first, second, third):
        s3.put(f"built/{path}", files[path])
    s3.client.delete_object(Bucket=BUCKET, Key="built/train.zarr/stranger")
    whole = s3.get("built/manifest.json")
    s3.put("built/manifest.json", whole.replace(b"u001", b"u002", 1))
    with pytest.raises(DatasetError, match=r"s3://.*manifest\.json: the manifest was changed"):
        verify(built)
    s3.put("built/manifest.json", whole)
    assert verify(built).passed


def test_a_folder_that_is_not_empty_is_refused(s3: Server, project: Path) -> None:
    s3.put("foreign/thesis.tex", b"words")
    recipe = write_recipe(project, "foreign.yaml", output__path=f"s3://{BUCKET}/foreign")
    with pytest.raises(OutputError, match=rf"s3://{BUCKET}/foreign: the folder is not empty"):
        build(recipe, ClusterChoice("never-asked"))
    assert s3.keys("foreign/") == ["foreign/thesis.tex"]


def test_killed_refused_to_a_second_and_resumed(
    s3: Server, tmp_path: Path, cluster: ClusterChoice
) -> None:
    """Fault rows 1, 2 and 10: the bytes are those of a build in a folder in one go."""
    slow: dict[str, Any] = {
        "grid__scheme": "pcs",
        "grid__n_grid": 16,
        "split__fractions": {"train": 1.0},
        "output__samples_per_shard": 8,
    }
    write_ensemble(tmp_path, n_universes=12, n_particles=60_000)
    recipe = write_recipe(tmp_path, **slow, output__path=f"s3://{BUCKET}/killed")
    process = subprocess.Popen(
        command("build", recipe, "--workers", "1"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for_lines(s3, 2, process)
        os.killpg(process.pid, signal.SIGSTOP)
        second = prep("build", recipe, "--resume")
        assert second.returncode == 5
        assert f"another build holds it (process {process.pid} on " in second.stderr
        assert f"remove s3://{BUCKET}/killed/.lock" in second.stderr
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    assert "killed/manifest.json" not in s3.keys("killed/")
    assert "killed/.lock" in s3.keys("killed/")
    with pytest.raises(DatasetError, match=r"s3://.*did not finish.*--resume"):
        verify(f"s3://{BUCKET}/killed")
    unfinished = json.loads(in_process("inspect", f"s3://{BUCKET}/killed", "--json"))
    assert unfinished["kind"] == "unfinished build"
    finished = {key: stamp(s3, key) for key in finished_shards(f"s3://{BUCKET}/killed")}
    assert unfinished["finished shards"] == len(finished) >= 2
    done = prep("build", recipe, "--resume", "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert 2 <= json.loads(done.stdout)["shards_kept"] < 12
    for key, before in finished.items():
        assert stamp(s3, key) == before, "a finished shard was made again"
    assert verify(f"s3://{BUCKET}/killed").passed
    local = write_recipe(tmp_path, "local.yaml", **slow)
    build(local, cluster)
    assert objects_of(s3, "killed") == files_of(tmp_path / "out")


def wait_for_lines(s3: Server, n: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while sum(key.endswith(".jsonl") for key in s3.keys("killed/ledger/")) < n:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no shard in two minutes"
        time.sleep(0.01)


def finished_shards(url: str) -> list[str]:
    entries = ledger.read(url).values()
    return [f"killed/{shard.path}" for entry in entries for shard in entry.shards]


def stamp(s3: Server, key: str) -> Any:
    """What changes when an object is written again."""
    return s3.client.head_object(Bucket=BUCKET, Key=key)["LastModified"]


@pytest.mark.parametrize("format_", ["zarr", "tfrecord"])
def test_a_build_in_memory(project: Path, reference: Path, format_: str) -> None:
    """Workers are threads here: the file system is this process's."""
    url = f"memory://built/{format_}"
    recipe = write_recipe(
        project, f"memory-{format_}.yaml", output__path=url, output__format=format_
    )
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address=None,
    ) as local:
        result = build(recipe, ClusterChoice(local.scheduler_address))
    assert result.output == url
    assert verify(url).passed
    cube = universe_cube(url, load(url), "u003")
    np.testing.assert_array_equal(cube, universe_cube(reference, load(reference), "u003"))
    if format_ == "zarr":
        store = open_store(url)
        digests = {p: hashlib.sha256(store.read(p)).hexdigest() for p in store.paths()}
        assert {p: d for p, d in digests.items() if is_content(p)} == files_of(reference)


def test_a_build_that_fails_before_it_has_begun_leaves_nothing(
    s3: Server, project: Path, tmp_path: Path, cluster: ClusterChoice
) -> None:
    shutil.copytree(project / "sims", tmp_path / "sims")
    shutil.copy(project / "cosmology.csv", tmp_path)
    for path in (tmp_path / "sims").glob("*/snap_0.hdf5"):
        os.truncate(path, 1000)
    recipe = write_recipe(tmp_path, output__path=f"s3://{BUCKET}/nothing")
    with pytest.raises(CosmoflowError, match="snap_0"):
        build(recipe, cluster)
    assert s3.keys("nothing/") == []
