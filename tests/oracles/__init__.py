"""Brute force, and problems with known answers."""
