"""Task families, one folder each; the registry finds every folder that holds a ``FAMILY``."""
