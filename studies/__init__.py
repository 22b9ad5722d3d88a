"""Studies: each file answers one question, with its settings (Config) and a function run."""
