"""Checking one file, and one shard, of a data set: what the tasks of ``verify`` do.

A shard is read once: its bytes are digested, then decoded from memory.  Tasks
carry what they need to know, not the manifest, which has a line for every
universe.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from pipeline.errors import DatasetError
from pipeline.faults import Fault, bad_samples
from pipeline.manifest import File, Manifest, Shard
from pipeline.moments import Moments
from pipeline.samples import StoredSample, shard_samples
from pipeline.write.memory_store import MemoryStore
from pipeline.write.store import Store
from pipeline.write.tfrecord import FRAMING_BYTES, most_bytes, read_records


@dataclass
class Finding:
    """What looking at one file gave.

    Attributes
    ----------
    file : File
        As the manifest has it.
    faults : list of Fault
    samples : int
        Decoded.
    moments : dict
        Universe to the moments of its samples in this shard, and their number; none if not
        all were decoded.
    digest : str or None
        Found, where it is not the one of the manifest.
    """

    file: File
    faults: list[Fault] = field(default_factory=list)
    samples: int = 0
    moments: dict[str, tuple[Moments, int]] = field(default_factory=dict)
    digest: str | None = None

    @property
    def is_sound(self) -> bool:
        """Whether the file's bytes are those that were published."""
        return not any(fault.path == self.file.path for fault in self.faults)


@dataclass(frozen=True)
class ShardCheck:
    """What a task must know to check a shard.

    Attributes
    ----------
    outline : Manifest
        Without its long lists.
    shard : Shard
    owners : tuple of str
        Universe of each sample.
    targets : numpy.ndarray
        ``(samples, n_targets)`` float32, scaled, as expected.
    metadata : dict
        Small files that decoding needs, by path, of the right digests.
    decode : bool
        Whether the samples can be looked at: False where the metadata is damaged.
    """

    outline: Manifest
    shard: Shard
    owners: tuple[str, ...]
    targets: np.ndarray
    metadata: dict[str, bytes]
    decode: bool = True

    def __str__(self) -> str:
        return self.shard.path


def check_file(dataset: Store, file: File) -> Finding:
    """Look at the size and digest of a file."""
    fault = _there(dataset, file)
    if fault is None:
        state = hashlib.sha256()
        try:
            for block in dataset.blocks(file.path):
                state.update(block)
        except OSError as error:
            fault = _unreadable(file, error)
        else:
            return _digested(file, "sha256:" + state.hexdigest())
    return Finding(file, [fault])


def check_shard(dataset: Store, check: ShardCheck) -> Finding:
    """Look at the digest of a shard and at every sample that it holds."""
    shard = check.shard
    fault = _there(dataset, shard)
    if fault is not None and fault.kind == "link":
        return Finding(shard, [fault])
    try:
        raw = None if fault and fault.kind == "missing" else dataset.read(shard.path)
    except OSError as error:
        return Finding(shard, [_lost(check, _unreadable(shard, error))])
    if raw is None:
        return Finding(shard, [_lost(check, fault or _missing(shard))])
    finding = _digested(shard, "sha256:" + hashlib.sha256(raw).hexdigest())
    if fault is not None:  # its size says more than its digest
        finding.faults = [fault]
    held = MemoryStore({**check.metadata, shard.path: raw})
    if finding.faults:
        finding.faults = [_located(check, finding.faults[0], held)]
    elif check.decode:
        _look_at_samples(check, held, finding)
    return finding


def _there(dataset: Store, file: File) -> Fault | None:
    """A fault that shows before the file is read."""
    if dataset.is_link_out(file.path):
        return Fault("link", f"{file.path}: a link out of the data set", file.path)
    try:
        size = dataset.size(file.path)
    except OSError as error:
        return _unreadable(file, error)
    if size is None:
        return _missing(file)
    if size != file.bytes:
        return Fault("changed", f"{file.path}: {size} bytes, expected {file.bytes}", file.path)
    return None


def _missing(file: File) -> Fault:
    return Fault("missing", f"{file.path}: missing, expected {file.bytes} bytes", file.path)


def _unreadable(file: File, error: OSError) -> Fault:
    if isinstance(error, FileNotFoundError):
        return _missing(file)
    return Fault("unreadable", f"{file.path}: cannot be read: {error.strerror}", file.path)


def _digested(file: File, found: str) -> Finding:
    if found == file.digest:
        return Finding(file)
    message = f"{file.path}: changed (its digest is {found})"
    if not file.digest.startswith("sha256:"):
        message = f"{file.path}: the manifest's digest {file.digest:.20} is of no kind known here"
    return Finding(file, [Fault("changed", message, file.path)], digest=found)


def _lost(check: ShardCheck, fault: Fault) -> Fault:
    """A fault of a whole shard: all its samples are gone."""
    shard = check.shard
    last = shard.first_sample + shard.samples - 1
    said = f"{shard.split} samples {shard.first_sample} to {last} are lost"
    return Fault(
        fault.kind, f"{fault.message}; {said}", shard.path, shard.split,
        shard.first_sample, shard.samples, check.owners[0],
    )  # fmt: skip


def _located(check: ShardCheck, fault: Fault, held: MemoryStore) -> Fault:
    """A damaged shard with the samples of it that cannot be decoded."""
    shard = check.shard
    if not check.decode:
        return Fault(fault.kind, fault.message, shard.path, shard.split)
    bad = list(_undecodable(check, held))
    if not bad:
        message = f"{fault.message}; its {shard.samples} samples can be decoded all the same"
        return Fault(fault.kind, message, shard.path, shard.split)
    owner = check.owners[bad[0] - shard.first_sample]
    message = f"{fault.message}; cannot be decoded: {shard.split} {bad_samples(bad, owner)}"
    return Fault(fault.kind, message, shard.path, shard.split, bad[0], len(bad), owner)


def _undecodable(check: ShardCheck, held: MemoryStore) -> Iterator[int]:
    shard = check.shard
    numbers = range(shard.first_sample, shard.first_sample + shard.samples)
    if check.outline.layout.format == "tfrecord":
        good = _records_before_damage(check, held.files[shard.path])
        yield from numbers[good:]
        return
    for number in numbers:
        one = shard.model_copy(update={"first_sample": number, "samples": 1})
        try:
            list(shard_samples(held, check.outline, one))
        except DatasetError:
            yield number


def _records_before_damage(check: ShardCheck, raw: bytes) -> int:
    """Whole records at the beginning of a shard: where one ends is known from the one before."""
    layout, shard, good = check.outline.layout, check.shard, 0
    n_cells = math.prod(layout.sample_shape)
    most = most_bytes(shard.samples, n_cells * np.dtype(layout.dtype).itemsize)
    try:
        for _ in read_records(raw, layout.compression == "gzip", shard.path, most):
            good += 1
    except DatasetError:
        return min(good, shard.samples)
    return min(good, shard.samples)


def _look_at_samples(check: ShardCheck, held: MemoryStore, finding: Finding) -> None:
    shard = check.shard
    wrong: list[int] = []
    moments: dict[str, Moments] = {}
    try:
        for number, sample in enumerate(shard_samples(held, check.outline, shard)):
            owner = check.owners[number]
            zeros = Moments.zeros(check.outline.layout.sample_shape[3])
            moments.setdefault(owner, zeros).add_sample(sample.cells)
            finding.samples += 1
            if not _has_targets(sample, check.targets[number]):
                wrong.append(shard.first_sample + number)
    except DatasetError as error:
        finding.faults.append(_content(check, str(error), [shard.first_sample + finding.samples]))
        return
    counts = Counter(check.owners)
    finding.moments = {owner: (sums, counts[owner]) for owner, sums in moments.items()}
    if wrong:
        owner = check.owners[wrong[0] - shard.first_sample]
        message = f"{shard.path}: targets are not those of the universe: {shard.split} "
        finding.faults.append(_content(check, message + bad_samples(wrong, owner), wrong))
    if shard.index is not None and shard.index.path in check.metadata:
        finding.faults += _index_faults(check, held)


def _has_targets(sample: StoredSample, expected: np.ndarray) -> bool:
    return sample.targets is None or np.array_equal(sample.targets, expected)


def _content(check: ShardCheck, message: str, bad: list[int]) -> Fault:
    shard = check.shard
    place = min(bad[0] - shard.first_sample, shard.samples - 1)
    return Fault("content", message, shard.path, shard.split, bad[0], len(bad), check.owners[place])


def _index_faults(check: ShardCheck, held: MemoryStore) -> Iterator[Fault]:
    """The index must say where the records are, in the uncompressed stream."""
    shard = check.shard
    if shard.index is None or check.outline.layout.compression != "none":
        return
    raw, offset, lines = held.files[shard.path], 0, []
    while offset < len(raw):
        length = int.from_bytes(raw[offset : offset + 8], "little") + FRAMING_BYTES
        lines.append(f"{offset} {length}\n")
        offset += length
    if "".join(lines).encode() != held.files[shard.index.path]:
        message = f"{shard.index.path}: does not say where the records of {shard.path} are"
        yield Fault("content", message, shard.index.path, shard.split)
