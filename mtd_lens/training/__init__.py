"""Training from scratch: settings, the loop, and the folder of a run."""
