"""Snapshot formats: one module each, registered in the order in which they are sniffed."""

from pipeline.readers import (
    abacus,
    arrays,
    bigfile,
    cosmoflow_hdf5,
    gadget_binary,
    gadget_hdf5,
    genericio,
    nyx,
    nyx_grid,
    quijote_grid,
    swift,
    tipsy,
)
from pipeline.readers.registry import get_reader, open_snapshot, reader_for, reader_names, sniff

__all__ = [
    "abacus",
    "arrays",
    "bigfile",
    "cosmoflow_hdf5",
    "gadget_binary",
    "gadget_hdf5",
    "genericio",
    "get_reader",
    "nyx",
    "nyx_grid",
    "open_snapshot",
    "quijote_grid",
    "reader_for",
    "reader_names",
    "sniff",
    "swift",
    "tipsy",
]
