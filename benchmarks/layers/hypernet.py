"""One model, two domains: the same question answered by domain; and what the adapters cost.

    python benchmarks/layers/hypernet.py                 # answers: trains small models, minutes
    python benchmarks/layers/hypernet.py --cost --d 512  # time of a feed-forward layer with each adapter

Answers: 20 words that mean one thing in law and another in computing, one question each, two answers. Every model is
trained by `luna_kernel.train` on the same 40 dialogues and asked through a chat session, without sampling. `plain`
is not told the domain and is given the parameters of the largest adapter as feed-forward width; `plain, told in
words` reads the domain in the system message. Exact answers are counted with the right domain, the wrong one
(against the right one's answer), and none (against either). Costs are taken with float32 products as in `luna train`.
`--output FILE` writes the figures of either as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from results import add_output, write_results
from side_by_side import add_training, as_in_training, print_table, rounds

from luna_kernel.chat.generators import LunaGenerator
from luna_kernel.chat.session import Session, SessionOptions
from luna_kernel.contracts.chat import Sampling
from luna_kernel.contracts.layers import Context, Dims
from luna_kernel.model.checkpoint import open_model
from luna_kernel.plugins import load_plugins
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.training import train_model

MEANINGS = {
    "processo": ("Os autos de uma causa no juiz.", "Um programa em execução."),
    "sentença": ("A decisão do juiz.", "Um comando de uma linguagem."),
    "instância": ("Um grau da justiça.", "Um objeto de uma classe."),
    "código": ("Um conjunto de leis.", "O texto de um programa."),
    "recurso": ("O pedido de nova decisão.", "Memória, disco ou processador."),
    "execução": ("A cobrança forçada de uma dívida.", "O programa a correr na máquina."),
    "registro": ("A inscrição no cartório.", "Uma linha de uma tabela."),
    "autor": ("Quem propõe a ação.", "Quem escreveu o programa."),
    "parte": ("Quem está na causa.", "Um pedaço de um arquivo."),
    "termo": ("O fim de um prazo.", "Uma palavra buscada."),
    "prova": ("O que mostra um fato ao juiz.", "Um teste do programa."),
    "chave": ("O sinal pago no contrato.", "O campo que identifica a linha."),
    "cláusula": ("Uma regra do contrato.", "Uma parte da consulta ao banco."),
    "ação": ("O pedido levado à justiça.", "O efeito de um clique."),
    "domínio": ("A propriedade plena de um bem.", "O nome de um site na rede."),
    "porta": ("A entrada de um imóvel.", "O número de um serviço na rede."),
    "sessão": ("A reunião do tribunal.", "O tempo de um usuário no sistema."),
    "citação": ("O chamado do réu à causa.", "Um elo para outra página."),
    "arquivo": ("O depósito de autos findos.", "Dados com nome no disco."),
    "objeto": ("Aquilo que se pede na causa.", "Dados e métodos juntos."),
}
DOMAINS = ("direito", "informatica")
DIMS = {"d_model": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "max_positions": 128}
FFN, PLAIN_FFN = 128, 216
"""The plain model's feed-forward width makes it at least as large as the largest adapter model (printed)."""
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain, told in words": {},
    "hyper_adapter, low_rank": {"hyper_adapter": {"form": "low_rank"}},
    "hyper_adapter, bases": {"hyper_adapter": {"form": "bases"}},
    "hyper_adapter, film": {"hyper_adapter": {"form": "film"}},
    "domain_adapter": {"domain_adapter": {}},
}


def write_data(path: Path, *, in_words: bool) -> None:
    """The 40 dialogues as one JSON object a line."""
    lines = []
    for word, answers in MEANINGS.items():
        for domain, answer in zip(DOMAINS, answers, strict=True):
            row = {"pergunta": question(word), "resposta": answer, "condition": {"domain": domain}}
            lines.append(json.dumps({**row, **({"system": domain} if in_words else {})}, ensure_ascii=False))
    path.write_text("\n".join(lines), encoding="utf-8")


def question(word: str) -> str:
    """What is asked."""
    return f"O que é {word}?"


def trained(case: str, seed: int, steps: int, folder: Path) -> LunaGenerator:
    """A model of the case, trained."""
    data = folder / "dados.jsonl"
    write_data(data, in_words=case.endswith("words"))
    plugins = load_plugins("hypernet")
    configs = CASES[case]
    plain = not configs
    new = {
        "preset": "mini",
        "dims": {**DIMS, "ffn_dim": PLAIN_FFN if plain else FFN},
        "components": list(configs),
        "place": dict.fromkeys(configs, "ffn of every block"),
        "configs": configs,
    }
    fields = {"run_dir": folder / "run", "train_data": (str(data),), "vocab_size": 400, "new_model": new}
    fields |= {"max_steps": steps, "batch_size": 8, "sequence_length": 64, "valid_every": 0, "valid_fraction": 0.0}
    fields |= {"seed": seed, "precision": "fp32", "learning_rate": 3e-3, "preflight": False, "checkpoint_every": 0}
    result = train_model(TrainConfig.model_validate(fields), plugins=plugins)
    return LunaGenerator(open_model(result.model_dir, selection="hypernet"))


def exact(generator: LunaGenerator, case: str) -> dict[str, float]:
    """Share of exact answers with the right domain, the wrong one and none."""
    sampling = Sampling(temperature=0, max_tokens=40, repetition_penalty=1.0, min_p=0.0)
    session = Session(load_plugins("hypernet"), generator, steps=["generate"], options=SessionOptions(sampling))
    counts = {"right": 0, "wrong": 0, "none": 0}
    for word, answers in MEANINGS.items():
        for index, domain in enumerate(DOMAINS):
            for said, told in (("right", domain), ("wrong", DOMAINS[1 - index]), ("none", "off")):
                if case.endswith("words"):
                    session.options.context = "" if told == "off" else told
                elif generator.conditions:
                    session.command(f"/domain {told}")
                list(session.ask(question(word)))
                answer = session.turns[-1].answer.strip()
                counts[said] += answer in answers if said == "none" else answer == answers[index]
    session.close()
    return {name: count / (2 * len(MEANINGS)) for name, count in counts.items()}


def answers(seeds: int, steps: int) -> dict[str, Any]:
    """Train and ask."""
    runs = []
    print(f"{len(MEANINGS)} questions, {seeds} seeds, {steps} steps; median (lowest to highest) share of exact answers")
    print(f"  {'':26}{'parameters':>10}  {'right domain':>20}  {'wrong domain':>20}  {'no domain, either':>20}")
    for case in CASES:
        found: list[dict[str, float]] = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                generator = trained(case, seed, steps, Path(folder))
                found.append(exact(generator, case))
        runs += [{"case": case, "seed": seed, **item} for seed, item in enumerate(found)]
        cells = []
        for name in ("right", "wrong", "none"):
            values = [item[name] for item in found]
            cells.append(f"{statistics.median(values):.0%} ({min(values):.0%} to {max(values):.0%})")
        print(f"  {case:26}{generator.num_parameters:10,}  " + "  ".join(f"{cell:>20}" for cell in cells), flush=True)
    return {"runs": runs}


def cost(d: int, tokens: int, batch: int, count: int) -> dict[str, Any]:
    """Forward and backward of a SwiGLU layer, alone and with each adapter; a condition per row, and per token."""
    dims = Dims(64, d, 8, 8, 8, d // 8, round(8 * d / 3 / 64) * 64, tokens)
    registry = load_plugins("hypernet").registry

    def part(kind: str, name: str, fields: dict[str, Any]) -> Any:
        component = registry.get(kind, name)
        return component.load()(component.make_config(fields), dims)

    x = torch.randn(batch, tokens, d)
    ffn = part("ffn", "swiglu", {})
    positions = torch.arange(tokens).expand(batch, tokens)
    rows = torch.nn.functional.one_hot(torch.arange(batch) % 16, 16).float()
    conditions = {"": rows, " per token": rows[:, None].expand(batch, tokens, 16)}

    def step(modulator: Any, condition: torch.Tensor) -> None:
        ctx = Context(positions, None, {"domain": condition})
        y = ffn(x, ctx)
        if modulator is not None:
            y = modulator(x, y, ctx)
        (y.square().mean() + sum(ctx.losses.values())).backward()

    cases: dict[str, Any] = {"swiglu": lambda: step(None, rows)}
    notes = {"swiglu": {"MFLOP": ffn.flops_per_token(tokens) / 1e6}}
    for name, fields in (
        ("hyper_adapter", {"form": "low_rank"}),
        ("hyper_adapter", {"form": "bases"}),
        ("hyper_adapter", {"form": "film"}),
        ("hyper_adapter", {"form": "bases", "source": "text"}),
        ("domain_adapter", {}),
    ):
        adapter = part("modulator", name, fields)
        for how, condition in conditions.items():
            if how and fields.get("form") != "low_rank":
                continue
            title = f"{name} {' '.join(fields.values())}{how}"
            cases[title] = lambda adapter=adapter, condition=condition: step(adapter, condition)
            notes[title] = {"MFLOP more, at most": adapter.flops_per_token(tokens) / 1e6}
    title = f"D {d}, T {tokens}, B {batch}, float32, one thread"
    return {"tables": [print_table(title, rounds(cases, count, 1), "swiglu", notes)]}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    add_training(parser)
    add_output(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.cost:
        with as_in_training(options):
            found = cost(options.d, options.tokens, options.batch, options.rounds)
        write_results(options, found)
    else:
        write_results(options, answers(options.seeds, options.steps))


if __name__ == "__main__":
    main()
