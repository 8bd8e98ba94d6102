"""Portuguese words that belong together though their stems differ: `fez` and `fazer`, `decisão` and `decidir`.

For query expansion: a question asks when somebody *morreu*, the text tells of his *morte*. Families of irregular forms
are listed; derivations whose sounds change by rule (`permitir`, `permissão`) are made from the endings, and it is for
the user to keep those that the documents hold. Words are folded; see `portuguese`.
"""

from __future__ import annotations

import functools

from .portuguese import stem

_FAMILIES = """
    " | fazer fez feito fizeram faz fazia feitura | dizer disse dito disseram diz | trazer trouxe trazido traz
    trouxeram | ver viu visto visao viram via vista | vir veio vindo vinda vieram vem | dar deu dado dadiva deram |
    por pos posto posicao puseram poe colocar | saber soube sabido saberes souberam | querer quis quiseram | caber
    coube cabem | ir ida foram | ter teve tido tiveram | haver houve houveram | morrer morte morreu morto mortal |
    nascer nascimento nasceu nato | viver vida viveu vivo | escrever escrito escrita escritor | abrir aberto
    abertura | cobrir coberto cobertura | descobrir descoberto descoberta | perder perda perdido | vender venda
    vendido | comprar compra comprado | defender defesa defendido | eleger eleito eleicao | prender preso prisao |
    acender aceso | pagar pago pagamento | ganhar ganho | gastar gasto | entregar entregue entrega | matar morto
    assassinar | romper roto ruptura | suspender suspenso suspensao | imprimir impresso impressao | expulsar expulso
    expulsao | extinguir extinto extincao | crer crenca creem | ler lido leitura leu | ouvir ouvido ouvinte audicao
    | pedir pedido peticao peco | medir medida medicao meco | perguntar pergunta | responder resposta | propor
    proposto proposta | compor composto composicao compositor | supor suposto suposicao | opor oposto oposicao |
    depor deposto deposicao | dispor disposto disposicao | impor imposto imposicao | expor exposto exposicao |
    manter mantido manutencao | conter contido contencao | obter obtido obtencao | deter detido detencao | reter
    retido retencao | cair queda caiu | subir subida | sair saida saiu | fugir fuga | correr corrida | chegar
    chegada | partir partida | cantar canto cantor cancao | dancar danca | jogar jogo jogador | lutar luta |
    guerrear guerra | atacar ataque | governar governo governador | reinar reino rei reinado | conquistar conquista
    | invadir invasao | colonizar colonia | ensinar ensino | estudar estudo estudante | trabalhar trabalho |
    pesquisar pesquisa | crescer crescimento cresceu | grande maior tamanho | pequeno menor | bom melhor bem | mau
    pior mal | alto altura | largo largura | longo comprimento | fundo profundidade | quente calor | frio frieza |
    velho idade antigo | jovem juventude | rico riqueza | pobre pobreza | ano anual | mes mensal | dia diario |
    seculo secular | cidade urbano | campo rural | mar maritimo | rio fluvial
"""

# ending -> what may take its place, both ways; longest endings first.
_ENDINGS = (
    ("tencao", "ter"), ("epcao", "eber"), ("ucao", "uzir"), ("ssao", "tir"), ("ssao", "der"), ("usao", "uir"),
    ("usao", "udir"), ("isao", "idir"), ("asao", "adir"), ("ensao", "ender"), ("ensao", "enter"), ("ersao", "erter"),
    ("scricao", "screver"), ("stincao", "stinguir"),
)  # fmt: skip


@functools.lru_cache(maxsize=1)
def _families() -> dict[str, frozenset[str]]:
    """The stems of each listed stem's families, itself left out."""
    found: dict[str, set[str]] = {}
    for family in _FAMILIES.split("|"):
        stems = {stem(word) for word in family.split()}
        for one in stems:
            found.setdefault(one, set()).update(stems - {one})
    return {one: frozenset(others) for one, others in found.items()}


@functools.lru_cache(maxsize=50_000)
def related(word: str) -> frozenset[str]:
    """Stems that a folded word belongs to beside its own; some of them may be of no word."""
    own = stem(word)
    others = set(_families().get(own, ()))
    for noun, verb in _ENDINGS:
        for ending, other in ((noun, verb), (verb, noun)):
            if word.endswith(ending) and len(word) - len(ending) >= 2:
                others.add(stem(word[: -len(ending)] + other))
    return frozenset(others - {own})
