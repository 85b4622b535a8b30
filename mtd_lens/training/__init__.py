"""Training from scratch: settings, the loop, the folder of a run, and its checkpoints."""
