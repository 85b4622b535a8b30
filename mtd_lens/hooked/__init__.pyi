from .build import (
    DTYPES as DTYPES,
    AnalyticTransformer as AnalyticTransformer,
    assemble as assemble,
    check_dtype as check_dtype,
)
from .info import (
    ModelInfo as ModelInfo,
    info_of as info_of,
    moved as moved,
    probabilities as probabilities,
    reads_logits as reads_logits,
    task_of as task_of,
    with_info as with_info,
)
from .library import (
    HookedTransformer as HookedTransformer,
    HookedTransformerConfig as HookedTransformerConfig,
)
from .modules import (
    LinearAttention as LinearAttention,
    LogProbUnembed as LogProbUnembed,
    RelativeAttention as RelativeAttention,
    VectorEmbed as VectorEmbed,
    VectorPosEmbed as VectorPosEmbed,
)
from .random import randomized as randomized
