"""Code and documents use the terms of NumPy and scikit-learn, in American spelling."""

import re
from pathlib import Path

import pytest
from helpers import BUILT, ROOT

FOLDERS = ["sklearn_conv", "tests", "examples", "benchmarks", "docs", "."]
FILES = sorted(
    path
    for folder in FOLDERS
    for suffix in ("py", "md", "toml", "rst", "cff")
    for path in (ROOT / folder).glob(f"*.{suffix}" if folder == "." else f"**/*.{suffix}")
    if not any(built in path.parents for built in BUILT) and path != Path(__file__)
)
NOUNS = (
    "array|axis|batch|bool|callable|class|dask|directory|estimator|file|float|folder|image|integer|"
    "list|matrix|name|number|pair|picture|power|search|sequence|square|string|table|tuple"
)
BANNED = {
    r"\b(?:centers?|directions?|filters?|kernels?|mean 0 and|patches|rows) (?:of )?length 1\b": (
        "unit norm"
    ),
    r"\bmean 0\b": "zero mean",
    r"\border of C\b": "C order (row-major)",
    r"\bwords\b": "strings",
    r"\b(?:the|a|an|this|that|which|what|added|its|same) share\b|\bshares? of\b": "fraction",
    r"\bmenu\b": "choices, options",
    r"\bof two classes\b": "for two classes",
    r"(?:^|[.;:!?] |\"\"\"|# )(?-i:Of) (?:a|an|all|any|the|two|three|several|those)\b": "For ...",
    r"\bsome (?:\d[\d,.]*|ten|tens|tenths|twenty|hundreds?|thousands?)\b": "about",
    rf"(?<!here )\b(?:is|are|was|were) no (?:{NOUNS})\b": "is not a ...",
    r'"""(?:Give|Tell|Say|Take)s?\b': "Return, Report, Raise, Select",
    r"\bas many as there are\b": "all",
    r"\bLost:": "Rejected:",
    r"\bwhole,? or not at all\b": "atomically",
    r"\bwhat is learned from\b": "training patches, training images",
    r"\bbeyond (?:its|the|their) range\b": "overflow",
    r"\bnobody knows\b": "if ... is unknown",
    r"\|\s*so\s*\|": "as promised",
    r"\b(?:initial|normal|standard|regular|optim|summar|parallel|visual|recogn|util|general|special"
    r"|minim|maxim|organ|real|emphas|vector|token|serial)is(?:e|ed|er|ers|es|ing|ation|ations)\b": (
        "-ize"
    ),
    r"\b(?:analyse|behaviour|catalogue|centre|centred|colour|coloured|colours|favour|grey|greys"
    r"|greyscale|labelled|licence|modelled|modelling|neighbour|neighbours)\b": "American spelling",
}


TEXTS = {path: path.read_text() for path in FILES}


@pytest.mark.parametrize("pattern", BANNED)
def test_terms_are_those_of_the_field(pattern):
    term = re.compile(pattern, re.MULTILINE | re.IGNORECASE if "Lost" not in pattern else 0)
    found = [
        f"{path.relative_to(ROOT)}:{i}: {line.strip()}"
        for path, text in TEXTS.items()
        if term.search(text)
        for i, line in enumerate(text.splitlines(), 1)
        if term.search(line)
    ]
    assert not found, f"write {BANNED[pattern]!r}:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        (r"\bmenu\b", "the menu of kernels"),
        (r"\border of C\b", "in the order of C"),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern, sentence):
    assert pattern in BANNED
    assert re.search(pattern, sentence)
