"""What a relaxation went through: trajectories, their measures, files."""
