"""How a study runs: command line, run folder, checkpoints, flags, variables."""
