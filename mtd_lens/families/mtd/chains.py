"""What is claimed of an algorithm as a whole: its stages act together, one through the other."""

from dataclasses import replace

from mtd_lens.claims import Claim
from mtd_lens.contracts import BUT_LAST, LAST
from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd.claims import SAME_GIVEN_QUERY
from mtd_lens.families.mtd.task import MTDTask, check_task
from mtd_lens.measures import Chain, Interchange, Path
from mtd_lens.measures.words import last_write
from probes import checks

STAGES = {
    "one-step": (
        Interchange("responsibilities", "hook_attn_out", BUT_LAST, linear=True),
        Interchange("mean_responsibility", "hook_attn_out", LAST, linear=True),
        Interchange("mixture_weights", "attn.hook_pattern", LAST),
    ),
    "posterior": (
        Interchange("node_log_likelihoods", last_write, BUT_LAST, linear=True),
        Interchange("total_log_likelihoods", "hook_attn_out", LAST, linear=True),
        Interchange("node_posterior", "attn.hook_pattern", LAST),
    ),
}
"""By algorithm, swaps of what is computed of the evidence, of its sum or mean, and of weights."""


def chain_claims(task: MTDTask, algorithm: str = "one-step") -> list[Claim]:
    """Claims of the paths between stages, and of their joint swaps.

    Args:
        task: The task.
        algorithm: Its id.

    Raises:
        ArgumentError: No task, or an algorithm without such claims.
    """
    check_task(task)
    checks.choice(algorithm, "algorithm with chains", STAGES, ArgumentError)
    first, second, third = STAGES[algorithm]
    first_given, second_given = (replace(stage, given_query=True) for stage in (first, second))
    evidence, sums, weights = (stage.variable.replace("_", " ") for stage in (first, second, third))
    path, joint = f"{first.variable}.path_to_{second.variable}", f"{second.variable}.joint"
    return [
        Claim(
            path,
            f"Swapping the {evidence} acts through the layer of the {sums} and no other way.",
            Path(first, second),
            slow=True,
        ),
        Claim(
            f"{path}_given_query",
            SAME_GIVEN_QUERY,
            Path(first_given, second_given),
            slow=True,
        ),
        Claim(
            joint,
            f"With both swapped, from a source each, the prediction follows the {sums} alone, "
            f"whatever the {evidence}.",
            Chain((first, second)),
            slow=True,
        ),
        Claim(
            f"{joint}_given_query",
            SAME_GIVEN_QUERY,
            Chain((first_given, second_given)),
            slow=True,
        ),
        Claim(
            f"{second.variable}.path_to_{third.variable}",
            f"Swapping the {sums} acts through the attention pattern of the {weights} and no other "
            "way.",
            Path(second, third),
            slow=True,
        ),
        Claim(
            f"{third.variable}.joint",
            f"With all three swapped, from a source each, the prediction follows the {weights} "
            f"alone, whatever the {evidence} and the {sums}.",
            Chain((first, second, third)),
            slow=True,
        ),
    ]
