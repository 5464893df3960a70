"""N-body snapshots to train-ready data sets; see README.md and ``cosmoflow-prep --help``."""
