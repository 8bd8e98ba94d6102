"""What kind of talk a question is: small talk, something personal, or a question about content.

It matters only when documents are switched on: "obrigada!" must not be answered with "not in the documents", and
"qual é o prazo?" must not be answered by a tiny model's imagination. The rule is a closed vocabulary, not a model:
a question is small talk only if *every* word of it belongs to small talk or has no content of its own. One word
beyond (`prazo`, `férias`) makes it a question about content, so the rule errs to the honest side.
"""

from __future__ import annotations

import enum
import re
import unicodedata


class Talk(enum.Enum):
    """What a question is about."""

    SMALL = "small"
    """Greetings, thanks, farewells, jokes, feelings, and questions to Luna about herself: never a matter of documents."""
    PERSONAL = "personal"
    """About Luna, or what somebody says of themselves ("hoje é meu aniversário"): documents may know better."""
    CONTENT = "content"


_GREETING = frozenset(
    """
    oi oie oii ola alo opa eai ei hey hi hello salve bom boa dia tarde noite bomdia boatarde boanoite madrugada
    obrigado obrigada brigado brigada valeu vlw grato grata agradeco agradecida agradecido thanks thank you
    tchau xau adeus ate logo mais breve amanha proxima bye falou flw fui abraco abracos beijo beijos bjs
    ok okay beleza blz certo certa entendi compreendi perfeito perfeita otimo otima legal massa show top joia bacana
    maravilha excelente adorei amei gostei show genial parabens sim nao claro isso ah oh ha haha hahaha rs rsrs k kk
    desculpa desculpe perdao favor por gentileza nada imagina prazer conhecer conhece lo la seja bem vindo vinda
    feliz natal ano novo semana fim pascoa sorte saude sumida sumido saudade saudades aniversario
    final talvez teste testando bora foi deu ouvir
    """.split()
)
"""Words that are small talk by themselves."""

_FUNCTION = frozenset(
    """
    a o as os um uma uns umas de do da dos das em no na nos nas por pelo pela para pra pro com sem e ou mas que se
    me mim eu comigo lhe te ti tu voce voces vc vcs ce cê seu sua seus suas teu tua teus tuas meu minha contigo consigo
    qual quais quem como quando onde porque porquê quanto quantos quantas o q oq sao sou esta ta tao e eh es foi
    era ser estar estou to tem tenho ter ha ai aqui la hoje agora entao so muito muita mto bem tudo mal mesmo
    mesma ja ainda tambem tbm pouco mais menos assim isso esse essa este esta todo toda todos todas gente pessoal
    luna vai vais vao vou indo anda andas passou passa td bao tranquilo tranquila novidades novidade coisa coisas algo
    """.split()
)
"""Words without content of their own."""

_ABOUT_YOU = frozenset(
    """
    nome chama chamar apelido idade anos velha nova nasceu nascimento criou criada criado criador criadora criadores
    fez feita feito desenvolveu desenvolvida desenvolvedor desenvolvedora programou programada treinou treinada treinado
    faz fazer fazes sabe saber sabes pode poder podes consegue conseguir consegues serve servir funciona funcionar funcionas
    funcao funcoes capaz capacidade capacidades habilidades ajuda ajudar ajudas ajude ajudaria responde responder
    entende entender fala falar falas fale conversa conversar conversas conversando converse papo bater lingua linguas idioma
    idiomas portugues ingles humana humano pessoa gente robo maquina modelo linguagem programa software computador bot chatbot
    assistente inteligencia artificial ia real viva vivo verdade existe existir mora moras vive vives lugar casa internet offline
    sente sentes sentir sentindo sentimento sentimentos emocao emocoes feliz triste cansada cansado gosta gostas gostar
    favorito favorita preferido preferida cor comida musica filme hobby pensa pensas pensar pensando quer queres querer quero
    lembra lembrar lembras aprende aprender memoria inteligente esperta burra bonita linda legal simpatica amiga amigo
    apresente apresentar apresenta conte contar conta fale diga dizer diz sobre mesma familia mae pai irma irmao namorado
    sonha sonhar dorme dormir come comer brasileira brasileiro menina mulher homem perguntar pergunta perguntas duvida duvidas
    posso podemos vamos gostaria trabalha trabalhar ocupada ocupado disponivel tamanho grande pequena parametros limites
    limitacoes erra errar erro erros mente mentir confiar confiavel segura privacidade
    """.split()
)
"""What one asks somebody about themselves; small talk only beside a word that addresses Luna."""

_YOU = frozenset("voce voces vc vcs ce tu te ti teu tua teus tuas seu sua seus suas contigo consigo".split())
_REQUEST = frozenset(
    """
    ajuda ajudar ajude preciso conversar conversa papo bater falar posso podemos vamos perguntar pergunta perguntas duvida
    duvidas fazer quero gostaria pode poderia repetir repete repita explica explicar melhor novo vez
    errado errada errou erro resposta respostas conta ajudou confuso confusa entendido desabafar apoio animar correto correta continue continua
    """.split()
)
"""Openings and reactions that need no address: "posso fazer uma pergunta?", "pode repetir?", "resposta errada"."""

_PLAY = frozenset(
    """
    piada piadas historia historias historinha poema poemas verso versos curiosidade frase bonita curta charada adivinha
    brincadeira cancao trava lingua interessante engracada surpresa motivacional
    """.split()
)
_PLAY_VERBS = frozenset(
    "conta conte contar faz faca fazer escreve escreva escrever diz diga dizer fala fale inventa invente sabe".split()
)

_FEELING = frozenset(
    """
    triste feliz ansioso ansiosa ansiedade medo raiva irritado irritada sozinho sozinha cansado cansada cansaco exausto
    exausta desanimado desanimada desistir fracasso chorar chorando nervoso nervosa preocupado preocupada animado animada
    entediado entediada tedio saudade apaixonado apaixonada culpa culpado culpada vergonha estressado estressada perdido
    perdida morrer matar viver suicidio
    """.split()
)
_FIRST_PERSON = frozenset(
    """
    eu estou to tou sou me mim meu minha meus minhas fui tive tenho quero penso sinto senti ando passei tirei consegui
    perdi briguei terminei reprovei comecei moro trabalho gosto adoro odeio acho vou tava estava sinto aguento sirvo chamo
    """.split()
)
_ASKING = frozenset(
    """
    qual quais quem quando onde aonde como quanto quantos quanta quantas porque saber diga dizer diz informe informar
    explique explica explicar mostre mostra mostrar procure procura procurar busque busca liste lista listar resuma resume
    resumo cite cita encontre encontrar ache consulte consultar verifique
    """.split()
)
_ASKING_PAIRS = (("o", "que"), ("por", "que"), ("pra", "que"), ("para", "que"), ("preciso", "do"), ("preciso", "da"))
_OPENERS = frozenset("sabe sabes pode podes poderia consegue consegues conhece tem teria lembra leu achou encontrou viu".split())
"""After "você" they open a question about something else: "você sabe qual é o prazo?"."""

_WORD = re.compile(r"[a-z0-9]+")


def plain_words(text: str) -> list[str]:
    """The words of `text` in lower case, without accents, with letters repeated for effect shortened ("oiiii")."""
    bare = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(char for char in bare if not unicodedata.combining(char))
    bare = re.sub(r"([a-z])\1{2,}", r"\1", bare)
    return [re.sub(r"([aeiou])\1$", r"\1", word) for word in _WORD.findall(bare)]


def kind_of_talk(query: str) -> Talk:
    """The kind of talk that `query` is, in Portuguese; what it does not recognise is `CONTENT`."""
    words = plain_words(query)
    if not words:
        return Talk.SMALL  # an emoji, "?!"
    rest = [word for word in words if word not in _GREETING and word not in _FUNCTION]
    greeted = any(word in _GREETING for word in words)
    addressed = any(word in _YOU for word in words)
    if not rest:
        return Talk.SMALL if greeted or addressed or _is_phatic(words) else _named(words)
    if addressed and all(word in _ABOUT_YOU for word in rest):
        return Talk.SMALL
    if all(word in _REQUEST for word in rest) and len(words) <= 8:
        return Talk.SMALL
    if _PLAY & set(rest) and all(word in _PLAY or word in _PLAY_VERBS for word in rest):
        return Talk.SMALL
    asking = "?" in query or bool(_ASKING & set(words)) or any(p in _ASKING_PAIRS for p in zip(words, words[1:], strict=False))
    first_person = bool(_FIRST_PERSON & set(words))
    if not asking and _FEELING & set(rest) and (first_person or len(words) <= 3):
        return Talk.SMALL
    if (first_person and not asking) or _asks_luna(words):
        return Talk.PERSONAL
    return _named(words)


def _is_phatic(words: list[str]) -> bool:
    """Only function words: "tudo bem?" is small talk, "e quanto?" asks on about the matter."""
    return bool({"bem", "vai", "bao", "td", "novidades", "novidade", "ta"} & set(words)) or words in (["luna"], ["e", "ai"])


def _asks_luna(words: list[str]) -> bool:
    """ "Você precisa de internet?": she is the subject, and the verb does not merely open the question."""
    start = words[1:] if words[0] == "e" else words
    return len(start) > 1 and start[0] in ("voce", "vc", "ce", "tu") and start[1] not in _OPENERS


def _named(words: list[str]) -> Talk:
    return Talk.PERSONAL if "luna" in words else Talk.CONTENT
