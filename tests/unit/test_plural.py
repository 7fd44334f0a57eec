"""Numbers agree with their nouns: counted() writes them, and no sentence of the tree has one written beside it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from turnloom.plural import counted

ROOT = Path(__file__).resolve().parents[2]
#: What is counted in sentences, right after a number.
NOUNS = re.compile(
    r" (?:bad |test |trained )?(?:bytes|calls|cells|columns|conversations|datasets|entries|evaluations|"
    r"examples|files|jobs|labels|messages|minutes|prompts|records|replies|rows|runs|shards|steps|tokens|weights|workers)\b"
)
LOGGED = re.compile("%[ds]" + NOUNS.pattern)
#: A limit or another number that is never 1, by what it is called where it is written.
NEVER_ONE = re.compile(r"[A-Z_]+|.*\b(?:limit|most|size|max_\w+)(?:\.\w+)?")
#: Numbers that are never 1 where they are written, by module, and why.
FITTING = {
    ("turnloom/demo/findings.py", "self.steps"): "160 unless asked otherwise",
    ("turnloom/masks/inspect/lint.py", "len(outcome.examples)"): "written where there are several",
    ("turnloom/masks/pipeline.py", "count"): "1 has a sentence of its own",
    ("turnloom/masks/rows/fit.py", "len(row.token_ids)"): "above max_length, which is 2 or more",
    ("turnloom/masks/rows/fit.py", "longest"): "likewise",
    ("turnloom/masks/sandbox/pool.py", "self._limits.answer_bytes"): "a limit",
    ("turnloom/masks/turns/views.py", "views"): "above the most that are made",
    ("turnloom/reading/rows.py", "len(looked_at)"): "1 has a sentence of its own",
    ("turnloom/transport/downloads.py", "first.file_bytes"): "the size of an adapter's file",
    ("services/preprocess/api/dataset_upload.py", "self.arrived"): "1 has a sentence of its own",
    ("services/preprocess/api/streams.py", "count"): "none, or above the limit",
    ("services/preprocess/datasets/sources/made_rows.py", "len(described)"): "not one",
    ("services/preprocess/domain/limits.py", "len(labels)"): "above the limit",
    ("services/preprocess/domain/refusals.py", "rate"): "an operator's limit",
    ("services/preprocess/domain/refusals.py", "len(jobs)"): "1 has a sentence of its own",
    ("services/preprocess/jobs/reply_prompts.py", "len(prompt.token_ids)"): "above what the model takes",
    ("services/preprocess/jobs/sampling.py", "length"): "likewise",
    ("services/preprocess/wire/job_request.py", "count"): "above the limit",
    ("services/preprocess/wire/rungs.py", "max(steps)"): "the larger of two numbers of steps",
    ("services/preprocess/wire/source.py", "len(columns)"): "above the limit",
    ("services/preprocess/wire/source.py", "len(message.column_mapping)"): "above the limit",
    ("services/preprocess/wire/sweep.py", "count"): "above the limit",
    ("services/rest/job_creation.py", "len(body.integrations)"): "not one",
    ("services/sampler/engine.py", "len(order.prompt)"): "a prompt that is rendered",
    ("services/sampler/engine.py", "len(token_ids)"): "as many as fit into the time",
    ("services/trainer/connection/sdk_data.py", "row.length"): "above max_model_len",
    ("services/trainer/supervision/halving.py", "%d cells"): "a sweep that halves has several",
    ("services/tuft/model.py", "%d tokens"): "a limit of what a pass holds",
    ("services/tuft/packing.py", "vocabulary"): "a model's",
}


def beside(path: Path) -> Iterator[tuple[int, str]]:
    """Line and expression of each number of a module that stands right before a plural; a log's has only its text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and (found := LOGGED.search(node.value)):
            yield node.lineno, found[0]
        if isinstance(node, ast.JoinedStr):
            for value, text in zip(node.values, node.values[1:], strict=False):
                if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                    number, found = ast.unparse(value.value), NOUNS.match(str(text.value))
                    if found and not NEVER_ONE.fullmatch(number):
                        yield node.lineno, number


def test_no_sentence_writes_a_plural_beside_a_number_that_may_be_one() -> None:
    modules = [path for tree in ("turnloom", "services") for path in (ROOT / tree).rglob("*.py")]
    found = {
        (path.relative_to(ROOT).as_posix(), number): line
        for path in modules
        if "v1" not in path.parts
        for line, number in beside(path)
    }
    assert {place: line for place, line in found.items() if place not in FITTING} == {}
    assert FITTING.keys() - found.keys() == set(), "left out, and no longer there"


@pytest.mark.parametrize(("number", "expected"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1000, "1000 rows")])
def test_a_number_agrees_with_its_noun(number: int, expected: str) -> None:
    assert counted(number, "row") == expected
    assert counted(number, "row", shown="?") == expected.replace(str(number), "?")
