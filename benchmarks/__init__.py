"""Timings of alternatives, in one process, printed as ratios."""
