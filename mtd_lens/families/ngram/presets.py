"""Named n-gram tasks."""

from mtd_lens.families.ngram.task import NGramTask

PRESETS = {
    task.name: task
    for task in (
        NGramTask(3, (1, 2), 2, 32, name="ngram-q3-s12-t32"),
        NGramTask(3, (1, 2), 2, 100, name="ngram-q3-s12-t100"),  # the paper's
        NGramTask(3, (1, 3), 3, 60, name="ngram-q3-s13-t60"),
    )
}
