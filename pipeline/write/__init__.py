"""Writing: atomic files, Zarr and TFRecord shards.  One call writes one whole file."""
