"""Snapshot formats: one module each, registered in the order in which they are sniffed."""

from pipeline.readers import gadget_binary, gadget_hdf5
from pipeline.readers.registry import get_reader, open_snapshot, reader_for, reader_names, sniff

__all__ = [
    "gadget_binary",
    "gadget_hdf5",
    "get_reader",
    "open_snapshot",
    "reader_for",
    "reader_names",
    "sniff",
]
