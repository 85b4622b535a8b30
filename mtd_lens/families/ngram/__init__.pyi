from .causal_model import (
    NGramCausalModel as NGramCausalModel,
    best_sharpness as best_sharpness,
    fit_sharpness as fit_sharpness,
)
from .constructions import (
    NGRAM_PARTS as NGRAM_PARTS,
    ablate_ngram as ablate_ngram,
    construct_ngram as construct_ngram,
)
from .counts_model import NGramCountsModel as NGramCountsModel
from .estimators import (
    ngram_bayes as ngram_bayes,
    ngram_counts as ngram_counts,
    ngram_kernel as ngram_kernel,
    ngram_maximum_likelihood as ngram_maximum_likelihood,
    ngram_truth as ngram_truth,
)
from .family import FAMILY as FAMILY
from .task import NGramBatch as NGramBatch, NGramTask as NGramTask
