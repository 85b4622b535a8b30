from .activations import ablate as ablate, patch_activations as patch_activations
from .grid import Grid as Grid
from .paths import patch_paths as patch_paths
