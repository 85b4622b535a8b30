"""One vocabulary of tensor axes.

=============  ==================================================================================
``sequence``   independent draws from a task
``position``   0 … T-1
``evidence``   positions that have a full window of parents, ``order`` … T-1
``query``      positions from which the next token is predicted, here also ``order`` … T-1
``lag``        1 … order, stored from index 0: entry ``g - 1`` belongs to lag ``g``
``token``      0 … n_tokens-1
=============  ==================================================================================
"""

from jaxtyping import Float, Int
from torch import Tensor

Tokens = Int[Tensor, "sequence position"]
Transition = Float[Tensor, "token token"]
Weights = Float[Tensor, "sequence lag"]
WeightsPerQuery = Float[Tensor, "sequence query lag"]
Responsibilities = Float[Tensor, "sequence evidence lag"]
Likelihoods = Float[Tensor, "sequence evidence lag"]
Predictions = Float[Tensor, "sequence token"]
PredictionsPerQuery = Float[Tensor, "sequence query token"]
PerSequence = Float[Tensor, " sequence"]
