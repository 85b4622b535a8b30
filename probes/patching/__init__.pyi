from .activations import ablate as ablate, patch_activations as patch_activations
from .attribution import (
    Agreement as Agreement,
    agreement as agreement,
    attribute_patches as attribute_patches,
)
from .grid import Grid as Grid
from .paths import patch_paths as patch_paths
