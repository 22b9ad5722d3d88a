"""Figures of the studies, from stored results; each module lists its own in FIGURES."""
