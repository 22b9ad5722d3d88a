"""Inputs of the studies: images, their files and downloads, and networks."""
