"""Trains networks that read cosmological parameters off a data set of cubes.

Imports go downward only: cli, then train, report, evaluate, then distribute
and checkpoint, then networks, losses and schedules, then feed and transform,
then catalog, then stores, spec and backend.
"""
