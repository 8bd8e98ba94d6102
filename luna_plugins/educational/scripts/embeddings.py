"""Embeddings: o que são os vetores dos tokens, e como o treino os arruma.

Rode com `python embeddings.py`, ou abra as células (`# %%`) como um caderno. Treina um modelo minúsculo no corpus que
vem com a Luna, em alguns segundos, para que se veja a tabela antes e depois. Não baixa nada.
"""

# %% [markdown]
# # Embeddings
#
# A primeira camada de um modelo é uma tabela: uma linha de D números por token. O modelo nunca vê as letras de um
# token, só a sua linha. No começo as linhas são sorteadas; o treino muda cada uma para que o modelo acerte o próximo
# token. Tokens que aparecem nos mesmos lugares acabam com linhas parecidas.

# %%
from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F

from luna_kernel.chat.demo import corpus_files
from luna_kernel.contracts.layers import Context
from luna_kernel.data.tokenizer import Tokenizer
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

torch.manual_seed(0)
textos = [
    mensagem["content"]
    for arquivo in corpus_files()
    for linha in Path(arquivo).read_text(encoding="utf-8").splitlines()
    for mensagem in json.loads(linha).get("messages", [])
]
tokenizador = Tokenizer.train(textos, 800)
ids = torch.tensor([id_ for texto in textos for id_ in [*tokenizador.encode(texto), tokenizador.end_id]])
medidas = {
    "d_model": 48, "num_layers": 1, "num_heads": 4, "num_kv_heads": 4, "head_dim": 12, "ffn_dim": 96,
    "max_positions": 64,
}  # fmt: skip
registro = load_plugins("none").registry
planta = Blueprint.from_preset("mini", registro, vocab_size=tokenizador.vocab_size, dims=medidas)
modelo = Decoder(planta, registro)
print(f"{len(ids)} tokens de treino; a tabela tem forma {tuple(modelo.embedding.weight.shape)}")

# %% [markdown]
# ## Semelhança
#
# Dois vetores se parecem quando apontam para o mesmo lado: o cosseno do ângulo entre eles é 1 se apontam para o mesmo
# lado, 0 se nada têm a ver, e -1 se são opostos.


# %%
def vizinhos(palavra: str, quantos: int = 5) -> list[tuple[str, float]]:
    """Os tokens de maior cosseno com o primeiro token de `palavra`, ele mesmo fora."""
    tabela = F.normalize(modelo.embedding.weight.detach(), dim=-1)
    id_ = tokenizador.encode(palavra)[0]
    cossenos = tabela @ tabela[id_]
    cossenos[id_] = -2
    melhores = cossenos.topk(quantos)
    pares = zip(melhores.indices.tolist(), melhores.values.tolist(), strict=True)
    return [(tokenizador.decode([outro], controls=True), cosseno) for outro, cosseno in pares]


def mostra() -> None:
    """Os vizinhos de algumas palavras."""
    for palavra in (" o", " um", " não", " de", "."):
        print(f"  {palavra!r:8}", "  ".join(f"{outro!r} {cosseno:.2f}" for outro, cosseno in vizinhos(palavra)))


print("antes do treino:")
mostra()

# %% [markdown]
# ## O treino
#
# Em cada passo: uma porção de trechos, a previsão do próximo token em todas as posições, a perda, e um passo na
# direção que a diminui. A perda começa em ln V, a de quem chuta.

# %%
otimizador = torch.optim.AdamW(modelo.parameters(), lr=5e-3, weight_decay=0.05)
perdas = []
for passo in range(250):
    inicios = torch.randint(0, len(ids) - 33, (16,))
    trechos = torch.stack([ids[inicio : inicio + 33] for inicio in inicios.tolist()])
    logits = modelo(trechos[:, :-1]).logits
    perda = F.cross_entropy(logits.flatten(0, 1), trechos[:, 1:].flatten())
    otimizador.zero_grad()
    perda.backward()
    otimizador.step()
    perdas.append(float(perda.detach()))
    if passo % 50 == 0:
        print(f"passo {passo:3d}  perda {perdas[-1]:.2f}")
print(f"no fim: {sum(perdas[-20:]) / 20:.2f}")
assert sum(perdas[-20:]) / 20 < perdas[0] - 1.5

# %% [markdown]
# ## Depois
#
# Os vizinhos já não são sorteio: artigos perto de artigos, palavras pequenas perto de palavras pequenas. Com mais
# treino e mais texto a tabela fica mais fina; este modelo só viu o corpus algumas vezes.

# %%
print("depois do treino:")
mostra()
artigos = F.normalize(modelo.embedding.weight.detach()[[tokenizador.encode(p)[0] for p in (" o", " um", " a")]], dim=-1)
todos = F.normalize(modelo.embedding.weight.detach(), dim=-1)
entre_artigos = float((artigos @ artigos.T)[~torch.eye(3, dtype=torch.bool)].mean())
ao_acaso = float((todos @ todos.T).mean())
print(f"cosseno médio entre artigos: {entre_artigos:.2f}; entre quaisquer dois tokens: {ao_acaso:.2f}")
assert entre_artigos > ao_acaso

# %% [markdown]
# ## E a posição?
#
# A linha de um token é a mesma onde quer que ele esteja. A ordem entra na atenção: RoPE gira a pergunta e a chave por
# um ângulo que cresce com a posição, e o produto das duas só depende da distância entre elas.

# %%
assert modelo.position is not None
q, k = torch.randn(1, 1, 1, 12), torch.randn(1, 1, 1, 12)


def produto(posicao_q: int, posicao_k: int) -> float:
    """O produto da pergunta e da chave, cada uma girada pela sua posição."""
    girada, _ = modelo.position.rotate(q, q, Context(torch.tensor([[posicao_q]])))
    _, chave = modelo.position.rotate(k, k, Context(torch.tensor([[posicao_k]])))
    return float((girada * chave).sum())


print(f"posições 3 e 1: {produto(3, 1):.4f}   23 e 21: {produto(23, 21):.4f}   23 e 1: {produto(23, 1):.4f}")
assert abs(produto(3, 1) - produto(23, 21)) < 1e-4

# %% [markdown]
# ## Para experimentar
#
# * Dobre os passos do treino e veja os vizinhos outra vez.
# * Na tabela, a norma também diz algo: compare a de um token frequente com a de um raro.
# * Numa conversa, `/explain` mostra os vizinhos dos tokens da sua pergunta na tabela do modelo com que você fala.

# %%
normas = modelo.embedding.weight.detach().norm(dim=-1)
vezes = torch.bincount(ids, minlength=tokenizador.vocab_size)
nunca = f"{float(normas[vezes == 0].mean()):.2f}" if bool((vezes == 0).any()) else "-"
usados = float(normas[vezes.topk(100).indices].mean())
print(f"norma média: dos 100 tokens mais usados {usados:.2f}, dos que nunca apareceram {nunca}")
