"""Figures: each file reads a results folder and draws; nothing is computed again."""
