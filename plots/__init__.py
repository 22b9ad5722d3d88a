"""Figures of the studies, drawn from the stored results of a run."""
