"""How replies announce an answer, in the languages that reasoning models drift into."""

from __future__ import annotations

import re

_ANNOUNCEMENTS = (
    # English
    r"\b(?:the\s+)?(?:final|correct|right|best|required|desired)?\s*\banswers?\b\s*(?:\*\*)?\s*"
    r"(?:(?:to|for|of)\s+(?:the|this|your)\s+(?:question|problem|puzzle)\s*)?(?:should be|must be|would be"
    r"|will be|is|are|:|=)",
    r"\b(?:the\s+)?(?:correct|right|best|selected|chosen)\s+(?:option|choice|one|letter|statement)\s*(?:is|:|=|would be"
    r"|must be|should be)",
    r"\b(?:final|my)\s+(?:answer|choice|result)\s*(?:\*\*)?\s*(?:is|:|=)",
    r"\bans\s*[:=]",
    r"\banswer['’]s\s",
    r"\b(?:final|correct)\s*:\s*(?=[\s*(\[$]{0,4}(?:[A-K]\b|[-$\\\d]))",
    r"\banswer\s+(?:-|\\to)\s",
    r"\bsolution\s*:\s*(?=[\s*(\[$]{0,4}(?:[A-K]\b|[-$\\\d]))",
    # Chinese, Japanese, Korean
    r"(?:最终|最后|正确)?(?:的)?(?:答案|选项|结果)(?:就)?(?:应该|应)?(?:选择|选(?!项)|是|为|[:=])+",
    r"(?:故|所以|因此|应)?(?:本题)?(?:答案)?(?:应)?选(?:择)?(?:项)?[:]?",
    r"(?:最終的な)?(?:答え|正解|解答)\s*(?:は|[:=])",
    r"(?:최종\s*)?(?:정답|답)\s*(?:은|는|[:=])",
    # Spanish, Portuguese, French, Italian, German, Dutch
    r"\bla\s+(?:respuesta|opci[oó]n|soluci[oó]n)(?:\s+(?:final"
    r"|correcta))?\s+(?:correcta\s+)?es(?:\s+la)?\s*:?",
    r"\brespuesta(?:\s+final)?\s*:",
    r"\ba\s+(?:resposta|op[cç][aã]o|alternativa)(?:\s+(?:final|correta|certa))?\s+[eé](?:\s+a)?\s*:?",
    r"\bresposta(?:\s+final)?\s*:",
    r"\bla\s+(?:bonne\s+)?r[eé]ponse(?:\s+(?:finale|correcte))?\s+est(?:\s+la)?\s*:?",
    r"\br[eé]ponse(?:\s+finale)?\s*:",
    r"\bla\s+risposta(?:\s+(?:finale|corretta|esatta))?\s+(?:[eè]|è)(?:\s+la)?\s*:?",
    r"\brisposta(?:\s+finale)?\s*:",
    r"\bdie\s+(?:richtige\s+|endg[uü]ltige\s+|korrekte\s+)?(?:antwort|l[oö]sung)\s+(?:ist|lautet)\s*:?",
    r"\b(?:antwort|endergebnis|ergebnis|l[oö]sung)\s*:",
    r"\bhet\s+(?:juiste\s+)?antwoord\s+is\s*:?",
    r"\bantwoord\s*:",
    # Russian, Polish, Turkish, Vietnamese, Indonesian, Arabic, Hindi
    r"(?:правильный\s+|окончательный\s+)?ответ\s*(?:[:=-]|есть|равен)",
    r"\b(?:poprawna\s+)?odpowied[zź](?:\s+to|\s*:)",
    r"\b(?:do[gğ]ru\s+)?cevap\s*:?",
    r"\b[dđ][aá]p\s+[aá]n(?:\s+[dđ][uú]ng)?\s*(?:l[aà]|:)",
    r"\bjawaban(?:nya)?(?:\s+akhir)?\s*(?:adalah|:)",
    r"(?:الجواب|الإجابة)(?:\s+(?:النهائي|النهائية|الصحيحة|الصحيح))?\s*(?:هو|هي|[:=])",
    r"उत्तर\s*(?:है|[:=])",
    # Scandinavian, Finnish, Czech, Romanian, Hungarian, Ukrainian, Greek, Thai, Hebrew, Persian, Bengali
    r"\b(?:rätt\s+|korrekt\s+)?svar(?:et)?\s*(?:är|er|:)",
    r"\b(?:oikea\s+)?vastaus\s*(?:on|:)",
    r"\bodpověď\s*(?:je|:)",
    r"\brăspuns(?:ul)?(?:\s+(?:corect|final))?\s*(?:este|:)",
    r"\b(?:a\s+)?(?:helyes\s+)?válasz\s*:?",
    r"(?:правильна\s+)?відповідь\s*[:=-]",
    r"(?:η\s+)?απάντηση\s*(?:είναι|:)",
    r"คำตอบ(?:คือ|\s*:)",
    r"התשובה(?:\s+(?:הנכונה|הסופית))?\s*(?:היא|:)",
    r"(?:پاسخ|جواب)(?:\s+(?:نهایی|صحیح))?\s*:?",
    r"উত্তর\s*(?:হল|হলো|[:=])",
    r"\bk[eế]t\s+qu[aả]\s+(?:cu[oố]i\s+c[uù]ng\s+)?l[aà]",
    r"\b(?:wynik|rezultat|risultato|resultado|resultat|sonuç)\s*(?:to|[eéè]|es|is|ist|:)\s",
)
_MARKUP = r"[\s*:]{0,12}"
ANSWER_PHRASE = re.compile("(?:" + "|".join(_ANNOUNCEMENTS) + ")" + _MARKUP, re.IGNORECASE)

CHOICE_WORD = (
    r"(?:the\s+)?(?:correct\s+)?(?:option|choice|answer choice|letter|statement|alternative)|opci[oó]n"
    r"|r[eé]ponse|option|antwort|alternativa|"
    r"op[cç][aã]o|вариант|选项|選択肢|opzione|opcja|[(]?الخيار"
)
PICKED = re.compile(
    r"(?:\b(?:i|we|i'm|i am|i'd|i would|i'll|let's|you should|one should)\s+(?:will\s+|would\s+|therefore\s+"
    r"|should\s+|must\s+)?(?:choose|pick|select|go with|going with|say)"
    r"|\b(?:choose|pick|select)\b(?!\s+(?:from|between|one|any))"
    r"|\b(?:so|thus|hence|therefore|consequently|making|it must be|it is|it's|this is|that is|that's|which"
    r" is|which means|"
    r"(?:best\s+)?(?:described|explained|given|represented|supported|answered|captured|identified)\s+(?:best\s+)?(?:by|as)|"
    r"corresponds to|closest to|matches|match|matching|corresponding to|leads to|points to|leaves|leaving|leaves us"
    r" with|gives)(?:\s+only)?,?\s*(?:it is |it's |it must be |this is )?"
    r"(?=(?:\*\*|\\\(|\$|\s){0,4}(?:[(\[]?(?:the\s+)?(?:correct\s+)?(?:option|choice|answer choice"
    r"|statement)\b|[(\[][A-K][)\]]|\\text(?:bf)?\{\s*\(?[A-K]|\*\*[A-K]\*\*|[A-K]\s*\.?\s*(?:$|\n))))"
    r"\s*",
    re.IGNORECASE | re.MULTILINE,
)
LEADING_CHOICE = re.compile(
    r"(?:(?:\b(?:option|choice|answer|statement|opción|вариант)\s*|(?<![A-Za-z\\*$]))(?:\*\*|\$"
    r"|\\text(?:bf)?\{){0,3}[(\[]([A-K])[)\]](?:\*\*|\$|\}){0,3}"
    r"|(?:\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer|[Ss]tatement)\s+|(?:^|(?<=[.;,:]\s)|(?<=\bonly\s)"
    r"|(?<=\bthat\s)|(?<=\b[Bb]ut\s)|(?<=\b[Ss]o\s)|(?<=\b[Hh]ence\s)|(?<=\b[Tt]hus\s))(?:\*\*)?)([A-K])(?:\*\*)?)"
    r"\s{0,3}(?:is|are|must be|would be|seems(?: to be)?|appears(?: to be)?|looks(?: like)?|being|remains)"
    r"\s+(?:therefore |thus |clearly |indeed |definitely |then )?"
    r"(?:the\s+)?(?:only\s+)?(?:one\s+(?:that is|which is)\s+)?(?:best |most |factually )?(?:correct|right"
    r"|true|answer|accurate|valid|best choice|appropriate|plausible|likely|suitable|reasonable"
    r"|one|option|choice|possibility|better(?:\s+(?:answer|choice|option|fit|one|supported))?(?=\s*(?:[.!]|$)))"
    r"(?!\s+(?:about|that|in|but|for)\b)",
    re.MULTILINE,
)
# the one option that others are set against: `Only C satisfies both`, `All options except C are wrong`
SOLE_CHOICE = re.compile(
    r"\b(?:[Oo]nly\s+(?:(?:option|choice|answer|statement)\s+)?[(\[*$]{0,3}([A-K])[)\]*$]{0,3}\s+"
    r"(?:satisfies|works|fits|matches|remains|meets|holds|makes sense|agrees|is left|is consistent|survives)"
    r"|[;,]\s+(?:so\s+|and\s+|thus\s+|hence\s+)?(?:only\s+)?[(\[*$]{0,3}([A-K])[)\]*$]{0,3}\s+(?:remains|is left)\b"
    r"|(?:[Aa]ll|[Ee]very)\b[^.\n]{0,30}\b(?:except|but|other than)\s+(?:for\s+)?(?:(?:option|choice)\s+)?[(\[*$]{0,3}"
    r"([A-K])[)\]*$]{0,3}\s+(?:are|is|can be|were)\s+(?:clearly\s+)?(?:wrong|incorrect|false|eliminated|ruled out))",
)
# `choice (B) fits.`, `B works best.`: nothing may follow that takes some of it back
FITTING = re.compile(
    r"(?:\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer|[Ss]tatement)\s+[(\[*$]{0,4}([A-K])\b|(?:^|(?<=[.;,:]\s)|(?<=\b[Ss]o\s)"
    r"|(?<=\b[Hh]ence\s)|(?<=\b[Tt]hus\s)|(?<=\b[Bb]ut\s))[(\[*$]{0,4}([A-K])\b)[)\]*$]{0,4}\s+"
    r"(?:clearly\s+|alone\s+|indeed\s+)?(?:fits|works|matches|agrees|wins|survives|holds|satisfies)\b"
    r"(?:\s+(?:best|perfectly|exactly|better|all|both|every|everything|here|the (?:data|description|evidence"
    r"|observations?|spectrum|facts|conditions?|definition))\b(?:\s+(?:the|of the)?\s*[a-z]+){0,2})?\s*(?:[.;!*]|$)",
    re.MULTILINE,
)
# a small letter is a choice only where `the answer` follows
LOWER_CHOICE = re.compile(
    r"(?:^|(?<=[.;,:]\s))[(\[*$]{0,3}([a-k])[)\]*$]{0,3}\s+(?:is|must be)\s+(?:therefore\s+|clearly\s+)?"
    r"(?:the|our|my)\s+(?:correct\s+|right\s+|best\s+|final\s+)?(?:answer|choice|option)\b",
    re.MULTILINE,
)
# what makes `choose A` a report of somebody's mistake
MISTAKEN = re.compile(
    r"\b(?:mistake|error|trap|tempt\w*|wrong\w*|incorrect\w*|not|never|avoid|someone|students?|people|many|others|some|most|might|could|if|poorly|badly|hardly)\b|n't\b",
    re.IGNORECASE,
)
# words that turn a text between two boxes into a change of mind
REVISION = re.compile(
    r"\b(?:wait|actually|however|no,|correction|correct(?:ed|ion)?|mistake|instead|recheck|re-?check"
    r"|should be|hmm|oops|sorry|but|final|rather|error|not)\b",
    re.IGNORECASE,
)
# a sentence that names a value right behind its verb: `The total is 48`, `o valor é 18`
STATED = re.compile(
    r"(?:\b(?:is|are|equals?|was|be|comes? (?:out )?to|gives|costs?|amounts? to|totals?|takes|arrives? at|at|have|has"
    r"|ist|beträgt|est|es|vale|wynosi|равно|равен|составляет)|[éè]|是|为|等于|=)"
    r"[\s:*]*(?:(?:exactly|about|approximately|roughly|only|just|therefore|thus|simply)\s+)?[\s*(\\$]*$",
    re.IGNORECASE,
)
# sentences that check, assume or explain instead
ASIDE = re.compile(
    r"^[\s*_>-]*(?:check|verif|note|if|for|since|when|suppose|let|assum|because|where|here|recall|as|given|in step|step"
    r"|example|consider|try|test|first|case)",
    re.IGNORECASE,
)
CONCLUSION = re.compile(
    r"^(?:so|thus|therefore|hence|consequently|finally|in total|in conclusion|altogether|this gives|we"
    r" (?:get|have|find|obtain|conclude))\b",
    re.IGNORECASE,
)
