"""A module becomes units: its own run is watched, and autograd's graph is cut behind each."""
