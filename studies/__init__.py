"""Studies: one file per question, each a frozen Config and a run(config)."""
