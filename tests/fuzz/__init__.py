"""Every public door, tried with values of every wrong kind."""
