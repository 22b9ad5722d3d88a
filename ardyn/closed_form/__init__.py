"""Exact solutions, without stepping."""
