"""Arquitetura: um decodificador, peça por peça, e as propriedades que o fazem um modelo de linguagem.

Rode com `python arquitetura.py`, ou abra as células (`# %%`) como um caderno. Não baixa nada; o modelo é minúsculo e
não foi treinado: o que se vê aqui vale para todo modelo desta forma, qualquer que seja o tamanho.
"""

# %% [markdown]
# # Arquitetura
#
# Um modelo de linguagem recebe tokens e diz, em cada posição, que token vem a seguir: um número por token do
# vocabulário. No meio há uma pilha de blocos iguais. Cada bloco soma duas coisas ao vetor de cada token:
#
#     x = x + misturador(norma(x))    # traz informação de tokens anteriores
#     x = x + rede(norma(x))          # trabalha em cada token sozinho

# %%
from __future__ import annotations

import torch

from luna_kernel.contracts.layers import Context
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

torch.manual_seed(0)
registro = load_plugins("none").registry
medidas = {
    "d_model": 64, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "ffn_dim": 128,
    "max_positions": 64,
}  # fmt: skip
planta = Blueprint.from_preset("mini", registro, vocab_size=500, dims=medidas)
modelo = Decoder(planta, registro).eval()
for linha in planta.table(registro).rows:
    print(f"{linha.part:10} {linha.mixer:10} {linha.ffn:8} {linha.parameters:8d} parâmetros")

# %% [markdown]
# ## Da entrada à saída
#
# `tokens (1, T)` → embedding `(1, T, D)` → blocos `(1, T, D)` → norma → logits `(1, T, V)`. A forma `(1, T, D)` não
# muda de bloco a bloco: é um fluxo em que cada bloco escreve, chamado de *fluxo residual*.

# %%
tokens = torch.randint(0, 500, (1, 10))
with torch.no_grad():
    logits = modelo(tokens).logits
print("tokens", tuple(tokens.shape), "-> logits", tuple(logits.shape))
probabilidades = logits[0, -1].softmax(-1)
print(f"soma das probabilidades do próximo token: {float(probabilidades.sum()):.4f}")
assert abs(float(probabilidades.sum()) - 1) < 1e-5

# %% [markdown]
# Sem treino, ele não sabe nada: a perda é a de quem chuta entre V tokens, ln V.

# %%
alvo = torch.randint(0, 500, (1, 10))
perda = torch.nn.functional.cross_entropy(logits[0], alvo[0])
print(f"perda {float(perda):.3f}, ln V = {torch.tensor(500.0).log():.3f}")
assert abs(float(perda) - float(torch.tensor(500.0).log())) < 0.5

# %% [markdown]
# ## Um bloco, à mão
#
# As mesmas duas somas, chamando as camadas uma a uma, dão o que o bloco dá.

# %%
bloco = modelo.blocks[0]
x = modelo.embedding(tokens)
contexto = Context(torch.arange(10)[None], position=modelo.position, tokens=tokens)
with torch.no_grad():
    depois_da_mistura = x + bloco.mixer(bloco.mixer_norm(x), contexto)
    a_mao = depois_da_mistura + bloco.ffn(bloco.ffn_norm(depois_da_mistura), contexto)
    torch.testing.assert_close(a_mao, bloco(x, contexto))
print("o bloco é x + misturador(norma(x)), e depois x + rede(norma(x))")

# %% [markdown]
# ## Atenção
#
# Cada token faz uma pergunta (q), e cada token anterior oferece uma chave (k) e um valor (v). O peso com que o token
# i olha para o j é softmax(qᵢ·kⱼ/√d), e o que ele recebe é a média dos valores com esses pesos. Cada linha soma 1, e
# acima da diagonal só há zeros: ninguém olha para o futuro.

# %%
with torch.no_grad():
    pesos, valores = bloco.mixer.weights(bloco.mixer_norm(x), contexto)
print("pesos", tuple(pesos.shape), "valores", tuple(valores.shape))
print("linha 4 da cabeça 0:", [round(peso, 2) for peso in pesos[0, 0, 4].tolist()])
torch.testing.assert_close(pesos.sum(-1), torch.ones(1, 4, 10))
assert float(pesos.triu(1).abs().max()) == 0

# %% [markdown]
# ## Causalidade
#
# Se mudarmos o último token, as saídas anteriores não mudam em nada. É isto que permite treinar em todas as posições ao
# mesmo tempo: cada uma faz a sua previsão sem ver a resposta.

# %%
outros = tokens.clone()
outros[0, -1] = (outros[0, -1] + 1) % 500
with torch.no_grad():
    mudados = modelo(outros).logits
torch.testing.assert_close(mudados[0, :-1], logits[0, :-1])
print(f"mudança na última posição: {float((mudados[0, -1] - logits[0, -1]).abs().max()):.3f}; nas outras: 0")

# %% [markdown]
# ## Token por token
#
# Numa conversa o modelo escreve um token por vez. Para não reler tudo, ele guarda chaves e valores (o *cache KV*). O
# resultado é o mesmo, e o custo de cada token novo não cresce com os anteriores, a não ser na própria atenção.

# %%
estado = modelo.make_state(1, 64)
with torch.no_grad():
    aos_poucos = torch.cat([modelo(tokens[:, i : i + 1], state=estado).logits for i in range(10)], 1)
torch.testing.assert_close(aos_poucos, logits, atol=1e-4, rtol=1e-4)
chaves = estado.blocks[0].mixer.keys
print(f"depois de {estado.length} tokens, cada camada guarda chaves de forma {tuple(chaves.shape)}")

# %% [markdown]
# ## Para experimentar
#
# * `num_kv_heads` menor que `num_heads`: várias cabeças dividem chaves e valores. O que muda no cache?
# * Com `--plugins ssm` o misturador guarda um estado de tamanho fixo em vez de chaves e valores; com `--plugins moc`
#   a rede são vários especialistas que conversam. `luna create --plugins moc,ssm` mostra a tabela de blocos.
# * Numa conversa, `/explain` mostra estas mesmas contas para uma resposta de verdade, e `/memory`, o cache.

# %%
total = sum(parametro.numel() for parametro in modelo.parameters())
na_tabela = modelo.embedding.weight.numel()
print(f"{total} parâmetros, {100 * na_tabela / total:.0f} % deles na tabela de embeddings")
