"""A GPT-2 of Hugging Face's, trained by a loop of your own: scored, localised and patched.

    python score_your_gpt2.py [STEPS] [SEQUENCES]

TransformerLens wraps the model in a TransformerBridge. mtd-lens makes the bridge's exact twin, with
hooks that are causal and runs that can be resumed, and the results say so. Nothing is downloaded.
"""

import sys

import torch
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import GPT2Config, GPT2LMHeadModel

import mtd_lens
import probes


def train(task: mtd_lens.MTDTask, steps: int) -> GPT2LMHeadModel:
    """A small GPT-2 whose vocabulary is the task's tokens, after some steps on fresh sequences."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=task.n_tokens, n_positions=task.seq_len, n_embd=64, n_layer=3, n_head=2
    )
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    longer = mtd_lens.MTDTask(task.transition, task.order, task.seq_len + 1)
    for step in range(steps):
        batch = longer.sample(64, seed=step).tokens
        log_probs = model(batch[:, :-1]).logits.log_softmax(-1)
        loss = log_probs.gather(-1, batch[:, 1:, None]).neg().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {float(loss.detach()):.3f} after {steps} steps")
    return model.eval()  # without which its dropout would be active, and refused


def main(steps: int = 300, n_sequences: int = 128) -> None:
    """Print the scorecard, the heads that matter most, and where variables live."""
    task = mtd_lens.load_task("mtd-q5-m3-t32")
    wrapped = train(task, steps)
    model = build_bridge_from_module(
        wrapped, architecture="GPT2LMHeadModel", hf_config=wrapped.config
    ).eval()
    print(mtd_lens.score(model, task, n_sequences=n_sequences, quick=True, name="my GPT-2"))
    clean, corrupted = task.sample(32, seed=0).tokens, task.sample(32, seed=1).tokens
    answers = model(clean)[:, -1].argmax(-1)

    def answer(logits: torch.Tensor) -> torch.Tensor:
        return logits.log_softmax(-1).gather(-1, answers[:, None])[:, 0]

    grid = probes.patch_activations(model, clean, corrupted, "z", answer)
    print(grid.engine)
    for layer, heads in enumerate(grid.differences.mean(-1)):
        print(f"layer {layer}: " + "  ".join(f"head {h} {x:.4f}" for h, x in enumerate(heads)))
    # the longest part: some minutes
    print(mtd_lens.localize(model, task, n_sequences=n_sequences, name="my GPT-2"))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
