"""Measurements: trajectories, tracking lag, tests of equivalence."""
