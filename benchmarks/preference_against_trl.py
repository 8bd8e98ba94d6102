"""Luna's preference losses beside TRL's own trainers, on the same random Llama: the largest differences.

    python benchmarks/preference_against_trl.py [--rounds 5] [--json]

Needs `trl` and what it imports (`accelerate`, `datasets`), which no other part of Luna needs. A small random model and
a perturbed copy of it, as reference, are held by `transformers` and by Luna's decoder with the same weights. Random
prompts with two answers go through TRL's `DPOTrainer` and `KTOTrainer` and through Luna's losses; compared are the loss
and its gradient at the embedding, relative to the largest number of the gradient.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from typing import Any

import torch
from luna_plugin_preference.losses import divergence_of, dpo_losses, kto_losses
from luna_plugin_preference.sequences import as_rows, log_probabilities
from torch import Tensor

from luna_kernel.model.decoder import Decoder
from luna_kernel.model.llama import blueprint_from_llama, weights_from_llama
from luna_kernel.plugins import load_plugins

BETA, WEIGHTS, VOCABULARY, PAIRS = 0.3, (1.2, 0.8), 64, 6


def llama(seed: int) -> Any:
    """A random Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=64, **sizes)
    return LlamaForCausalLM(config).float()


def perturbed(model: Any) -> Any:
    """A copy with noise on its weights."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return other


def luna(model: Any) -> Decoder:
    """Luna's decoder with the same weights."""
    registry = load_plugins("none").registry
    blueprint = blueprint_from_llama(model.config.to_dict())
    decoder = Decoder(blueprint, registry)
    decoder.load_state_dict(weights_from_llama(model.state_dict(), blueprint), strict=False)
    return decoder


def trainer(kind: str, model: Any, reference: Any, folder: str) -> Any:
    """TRL's trainer; the data set that it insists on is not used."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(VOCABULARY)}
    plain = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="w0", eos_token="w1")
    settings = {"output_dir": folder, "beta": BETA, "report_to": [], "use_cpu": True, "bf16": False}
    settings |= {"per_device_train_batch_size": 2 * PAIRS, "disable_dropout": False, "gradient_checkpointing": False}
    if kind == "dpo":
        from trl import DPOConfig, DPOTrainer

        data = Dataset.from_dict({"prompt": ["w2"] * 2, "chosen": ["w3"] * 2, "rejected": ["w4"] * 2})
        return DPOTrainer(model, reference, DPOConfig(**settings), train_dataset=data, processing_class=tokenizer)
    from trl import KTOConfig, KTOTrainer

    data = Dataset.from_dict({"prompt": ["w2"] * 12, "completion": ["w3", "w4"] * 6, "label": [True, False] * 6})
    liked, disliked = WEIGHTS
    given = KTOConfig(**settings, desirable_weight=liked, undesirable_weight=disliked)
    return KTOTrainer(model, reference, given, train_dataset=data, processing_class=tokenizer)


def padded(sequences: list[tuple[list[int], list[bool]]], prefix: str = "") -> dict[str, Tensor]:
    """Sequences as TRL's collators lay them out, padded on the right."""
    length = max(len(ids) for ids, _ in sequences)
    rows = [ids + [0] * (length - len(ids)) for ids, _ in sequences]
    there = [[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in sequences]
    answer = [[int(flag) for flag in mask] + [0] * (length - len(mask)) for _, mask in sequences]
    names = (f"{prefix}input_ids", f"{prefix}attention_mask", f"{prefix}completion_mask")
    return dict(zip(names, map(torch.tensor, (rows, there, answer)), strict=True))


def draw(generator: torch.Generator, count: int) -> list[tuple[list[int], list[bool]]]:
    """Random prompts with random answers."""

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    found = []
    for _ in range(count):
        prompt, answer = number(2, 12), number(1, 12)
        ids = torch.randint(2, VOCABULARY, (prompt + answer,), generator=generator).tolist()
        found.append((ids, [False] * prompt + [True] * answer))
    return found


def sums(model: Decoder, sequences: list[tuple[list[int], list[bool]]]) -> Tensor:
    """log π(y|x) of each, (N,), by Luna."""
    return log_probabilities(model, as_rows(sequences))[0]


def compare(kind: str, seed: int) -> dict[str, float]:
    """TRL's loss, Luna's, and how far loss and gradient are apart."""
    model = llama(seed)
    reference = perturbed(model)
    own, own_reference = luna(model), luna(reference)
    generator = torch.Generator().manual_seed(seed)
    answers = draw(generator, 2 * PAIRS)
    labels = torch.arange(2 * PAIRS) % 2 == 0
    mismatched = draw(generator, 2 * PAIRS)
    with tempfile.TemporaryDirectory() as folder:
        theirs = trainer(kind, model, reference, folder)
        inputs = padded(answers)
        if kind == "kto":
            inputs |= {"label": labels, **padded(mismatched, "KL_")}
        loss = theirs.compute_loss(theirs.model, inputs)
    loss.backward()
    with torch.no_grad():
        before = sums(own_reference, answers)
        divergence = divergence_of(sums(own, mismatched) - sums(own_reference, mismatched))
    ratios = sums(own, answers) - before
    if kind == "dpo":
        mine = dpo_losses(ratios[:PAIRS], ratios[PAIRS:], beta=BETA).mean()
    else:
        mine = kto_losses(ratios, labels, divergence, beta=BETA, weights=WEIGHTS).mean()
    mine.backward()
    expected, found = model.get_input_embeddings().weight.grad, own.embedding.weight.grad
    assert expected is not None
    assert found is not None
    gap = float((expected - found).abs().max() / expected.abs().max())
    return {"trl": float(loss), "luna": float(mine), "loss_gap": abs(float(loss) - float(mine)), "gradient_gap": gap}


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {kind: [compare(kind, seed) for seed in range(options.rounds)] for kind in ("dpo", "kto")}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for kind, rows in found.items():
        gaps = {key: max(row[key] for row in rows) for key in ("loss_gap", "gradient_gap")}
        losses = ", ".join(f"{row['luna']:.4f}" for row in rows)
        print(f"{kind}: losses {losses}")
        print(f"  largest gap of the loss {gaps['loss_gap']:.1e}, of the gradient {gaps['gradient_gap']:.1e}")


if __name__ == "__main__":
    main()
