"""Named autoregressive tasks."""

from mtd_lens.families.autoregressive.task import AutoregressiveTask

PRESETS = {
    task.name: task
    for task in (
        AutoregressiveTask(3, 16, name="ar-d3-t16"),
        AutoregressiveTask(5, 32, name="ar-d5-t32"),
        AutoregressiveTask(5, 32, noise=0.1, name="ar-d5-t32-noisy"),
        AutoregressiveTask(20, 20, "unitary", name="ar-unitary-d20-t20"),
    )
    if task.name
}
