"""Task families that live outside the package: each a module with a ``FAMILY`` to register."""
