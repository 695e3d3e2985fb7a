"""How replies announce an answer, in the languages that reasoning models drift into."""

from __future__ import annotations

import re

_ENGLISH = (
    r"\b(?:answers?|(?:correct|right|best|selected|chosen)\s+(?:option|choice|one|letter|statement)"
    r"|(?:final|my)\s+(?:choice|result))\b\s*(?:\*\*)?\s*(?:(?:to|for|of)\s+(?:the|this|your)\s+(?:question|problem"
    r"|puzzle)\s*)?(?:(?:should|must|would|will) be|is|are|:|=)",
    r"\bans\s*[:=]",
    r"\banswer(?:['’]s|\s+(?:-|\\to))\s",
    r"\b(?:final|correct|solution)\s*:\s*(?=[\s*(\[$]{0,4}(?:[A-K]\b|[-$\\\d]))",
)
# noun, perhaps an adjective behind it, verb or colon
_NOUNS = (
    "respuesta opci[oó]n soluci[oó]n resposta op[cç][aã]o alternativa r[eé]ponse risposta antwort l[oö]sung "
    "(?:end)?ergebnis antwoord ответ odpowied[zź] [dđ][aá]p_[aá]n jawaban(?:nya)? svar(?:et)? vastaus odpověď "
    "răspuns(?:ul)? відповідь απάντηση wynik rezultat risultato resultado resultat sonuç k[eế]t_qu[aả]"
)
_ADJECTIVES = "finale? correct[ae]? corrett?[ao] esatta certa akhir [dđ][uú]ng cu[oố]i_c[uù]ng"
_VERBS = "est? [eéè] ist lautet is есть равен to l[aà] adalah är er on je este είναι"
# scripts without spaces or with verbs of their own
_OTHERS = (
    r"(?:最终|最后|正确)?(?:的)?(?:答案|选项|结果)(?:就)?(?:应该|应)?(?:选择|选(?!项)|是|为|[:=])+",
    r"(?:故|所以|因此|应)?(?:本题)?(?:答案)?(?:应)?选(?:择)?(?:项)?[:]?",
    r"(?:最終的な)?(?:答え|正解|解答)\s*(?:は|[:=])",
    r"(?:최종\s*)?(?:정답|답)\s*(?:은|는|[:=])",
    r"(?:الجواب|الإجابة)(?:\s+(?:النهائي|النهائية|الصحيحة|الصحيح))?\s*(?:هو|هي|[:=])",
    r"उत्तर\s*(?:है|[:=])",
    r"คำตอบ(?:คือ|\s*:)",
    r"התשובה(?:\s+(?:הנכונה|הסופית))?\s*(?:היא|:)",
    r"(?:پاسخ|جواب)(?:\s+(?:نهایی|صحیح))?\s*:?",
    r"\b(?:cevap|válasz)\s*:?",
    r"উত্তর\s*(?:হল|হলো|[:=])",
)


def _any(words: str) -> str:
    """Any of the words; `_` stands for a space."""
    return "|".join(words.replace("_", r"\s+").split())


_FOREIGN = (
    rf"\b(?:{_any(_NOUNS)})(?:\s+(?:{_any(_ADJECTIVES)}))?"
    rf"(?:\s*(?:[:=]|-\s)|\s+(?:{_any(_VERBS)})\b(?:\s+l?a(?=\s+\w))?\s*:?)"
)
ANSWER_PHRASE = re.compile("(?i)(?:" + "|".join((*_ENGLISH, _FOREIGN, *_OTHERS)) + r")[\s*:]{0,12}")
