"""Solvers of any system; they know no network."""
