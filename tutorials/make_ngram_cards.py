"""Measure the trained n-gram models of the package and write their cards.

    python tutorials/make_ngram_cards.py [--missing]

KL from the truth is over the entropy of the truth: the excess loss.
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

import jinja2
import torch

import mtd_lens
import probes
from mtd_lens import render
from mtd_lens.checkpoints import read_manifest
from mtd_lens.families.ngram import estimators
from mtd_lens.hooked import probabilities
from mtd_lens.registry import shipped_checkpoints
from mtd_lens.run_folder import read_metrics
from mtd_lens.training_config import TrainingConfig

TEMPLATES = Path(__file__).parent / "templates"
N_HELD_OUT = 4096
SEED = 7
"""Of all evaluation sequences; training draws others."""


def measure(name: str, folder: Path) -> dict[str, Any]:
    """What the card of a model says."""
    manifest, model = read_manifest(folder), mtd_lens.load_model(name)
    config = TrainingConfig(**manifest["config"])
    scorecard = mtd_lens.score(model, seed=SEED).to_dict()
    return {
        "name": name,
        "task": manifest["task"]["name"],
        "config": config,
        "versions": manifest["versions"],
        "metrics": manifest["metrics"],
        "command": shlex.join(config.command(manifest["task"]["name"], "DIR")),
        "first_losses": [row for row in read_metrics(folder) if row["step"] <= 200],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "held_out": held_out(model),
        "scorecard": scorecard,
        "claims": {claim["id"]: claim for claim in scorecard["claims"]},
    }


def held_out(model: Any) -> dict[str, Any]:
    """KL from the truth on sequences that nothing was trained on: at the end, and its ratios."""
    task = mtd_lens.task_of(model)
    batch = task.sample(N_HELD_OUT, SEED)
    truth = estimators.true_rows(task, batch.tokens, batch.tables)
    with torch.no_grad():
        output = torch.cat([model(part) for part in batch.tokens.split(256)])[:, task.window :]
    predictions = {
        "model": probabilities(model, output),
        "exact Bayes": mtd_lens.ngram_bayes(task, batch.tokens),
        **{
            f"exact Bayes, lags {{{lag}}}": mtd_lens.ngram_bayes(task, batch.tokens, (lag,))
            for lag in task.parents
        },
    }
    kl = {name: probes.kl_divergence(truth, value) for name, value in predictions.items()}
    at_end, overall = (
        float(of(kl["model"]) / of(kl["exact Bayes"]))
        for of in (lambda value: value[:, -1].mean(), torch.mean)
    )
    return {
        "n_sequences": N_HELD_OUT,
        "kl_from_truth": {
            name: probes.mean_interval(value[:, -1], seed=SEED) for name, value in kl.items()
        },
        "ratio": (at_end, overall),
    }


def oddities(model: dict[str, Any]) -> list[str]:
    """What a reader should know before using the model."""
    found = []
    if model["held_out"]["ratio"][0] > 1.1:
        found.append("Its excess loss is more than 1.1 times that of exact Bayes.")
    supported = [c for c, claim in model["claims"].items() if claim["verdict"] == "supported"]
    found.append(f"Claims of the construction that hold for it: {', '.join(supported) or 'none'}.")
    if "sharpness_at_bound" in model["scorecard"]:
        found.append("Its fitted sharpness lies at the end of its range, so it is no estimate.")
    return found


def main() -> None:
    """Measure and write every card, or those that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--missing", action="store_true", help="only for models without a card")
    missing = parser.parse_args().missing
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["oddities"] = oddities
    card = environment.get_template("model_card.md.jinja")
    for name, folder in sorted(shipped_checkpoints().items()):
        if name.startswith("ngram-") and not (missing and (folder / "card.md").exists()):
            render.write_text(folder / "card.md", card.render(model=measure(name, folder)))
            print(f"wrote {folder / 'card.md'}", flush=True)


if __name__ == "__main__":
    main()
