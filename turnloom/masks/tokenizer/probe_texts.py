"""Texts on which two encoders differ if they differ at all."""
# ruff: noqa: RUF001, E501 - the texts are meant to hold characters that look like others, and read best whole

from __future__ import annotations

import random
from typing import Final

SCRIPTS: Final = (
    "The quick brown fox can't jump; we'll SEE, I'M sure: \u201cquotes\u201d \u2018don\u2019t\u2019 \u2014 3.14, 1,000 42nd 2024-01-01",
    "Zwölf Boxkämpfer jagen Viktor; cœur naïve élève İstanbul ıçğş ŁÓDŹ ærø ßẞ ﬁ ﬃ",
    "Съешь же ещё этих мягких французских булок Ґґ Її Ђђ",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία ᾳ ὖ ς",
    "דג סקרן שט בים מאוכזב שָׁלוֹם",
    "نص حكيم له سر قاطع وذو شأن عظيم ١٢٣ کێشە ـــ",
    "ऋषियों को सताने वाले दुष्ट राक्षसों क्षत्रिय ४५६",
    "আমি বাংলায় গান গাই ਪੰਜਾਬੀ ગુજરાતી தமிழ் తెలుగు ಕನ್ನಡ മലയാളം සිංහල",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า ລາວ မြန်မာ ភាសាខ្មែរ བོད་ཡིག",
    "你好世界。天地玄黃，宇宙洪荒！繁體字 𠀀𪚥 ㍿ ＡＢＣ１２３",
    "いろはにほへと チリヌルヲ ｶﾞｷﾞ か\u3099 東京都",
    "다람쥐 헌 쳇바퀴에 타고파 \u1112\u1161\u11ab",
    "ქართული Հայերեն አማርኛ ᏣᎳᎩ ᓀᐦᐃᔭᐍᐏᐣ ᠮᠣᠩᠭᠣᠯ ⵜⴰⵎⴰⵣⵉⵖⵜ ߒߞߏ 𞤀𞤣𞤤 𐌰𐌱 𒀀𒁀",
    "👍🏽 👨‍👩‍👧‍👦 🇩🇪🇫🇷 ❤️ ☎︎ 1️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "e\u0301 a\u0323\u0302 \u0344 \u212b \u2126 q\u0307\u0323 \u0958 \ufb1d \u0301alone Z\u0335\u0321\u0353\u0354\u0330algo",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋ ½ ² ₃ Ⅷ ① ㎏ ™ € ₹ ‰ ⇒ ▁ ▁▁ \u2581x",
    "\u200b\u200c\u200d\u2060\ufeff\u00ad\u202e\u2066x\u2069 \u0085 \u00a0 \u2028 \u2029 \u3000 \u1680 \u180e",
    "\x00\x01\x07\x08\x1b[0m\x1c\x1d\x1e\x1f\x7f\ufffd\ufffe\U0010ffff\ue000",
)
CODE: Final = (
    'def f(x: int) -> str:\n    """doc"""\n    return f\'{x!r:>10}\'  # done\n\n\nclass A(B):\n\tpass\n',
    '#include <stdio.h>\r\nint main(void) {\r\n\tprintf("%d\\n", 0x1F & ~3);\r\n\treturn 0;\r\n}\r\n',
    "const a = [...b, `${c}`] ?? d?.e; // => (x) => { return x !== y && !z || w }",
    "SELECT * FROM t WHERE a<>'b''c' AND d>=1e-9; -- ok\n{\"k\": [1, 2.50, null, true, \"\\u00e9\\n\"]}",
    '<div class="x">&nbsp;</div><!-- c --> https://example.org/a?b=c&d=%20#e user@example.org C:\\a\\b ~/.x',
    "| a | b |\n|---|:-:|\n| 1 | 2 |\n\n```sh\n$ ls -la | grep 'x' && echo \"$HOME\"\n```\n> q\n1. one\n   * two\n",
    "<|im_start|>system\n<|im_end|> <s></s> [INST] [/INST] <<SYS>> <bos> [CLS] [SEP] <unk> <0x0A> <think>\n</think>\n\n",
)


def probe_corpus() -> list[str]:
    """Return the texts: all scripts, white space, long runs, code, random characters; the same at every call."""
    chance = random.Random(0)  # noqa: S311 - a fixed corpus, no secret
    spaces = [
        " ",
        "  ",
        "   ",
        "\t",
        "\n",
        "\n\n",
        "\r\n",
        " \n",
        "\n ",
        " \n\n ",
        "\t\n\t",
        "\u00a0",
        "\u3000",
        "\u2028",
    ]
    runs = ["a", " ", "\n", "\t", "=", "-", "#", "0", "é", "中", "👍", "\u0301", "ab", " a", "a\n", "\r\n", "▁", "<"]
    sentences = [*SCRIPTS, *CODE]
    words = [word for sentence in sentences for word in sentence.split(" ")]
    edges = [
        before + text + after for text in ("", "a", "A1", ".", "'s", "中") for before in spaces for after in spaces
    ]
    mixed = ["".join(chance.choice([*words, *spaces]) for _ in range(chance.randrange(1, 24))) for _ in range(1000)]
    planes = [
        (0, 0x80),
        (0, 0x250),
        (0x250, 0x2000),
        (0x2000, 0x3100),
        (0x3100, 0xD800),
        (0xE000, 0x10000),
        (0x10000, 0x110000),
    ]
    noise = [
        "".join(chr(chance.randrange(*chance.choice(planes))) for _ in range(chance.randrange(1, 24)))
        for _ in range(1000)
    ]
    long_runs = [run * count for run in runs for count in (2, 3, 7, 16, 33, 129, 1000)]
    return ["", *sentences, *words, *edges, *mixed, *noise, *long_runs]
