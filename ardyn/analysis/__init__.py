"""Results of a relaxation: trajectories, their measures, files."""
