"""A mistyped command names those that are like it, though commands are loaded only when they are asked for."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from turnloom.cli.app import app


@pytest.mark.parametrize(
    ("words", "meant"), [(["trian"], "train"), (["prevew"], "preview"), (["dataset", "craete"], "create")]
)
def test_a_mistyped_command_names_the_one_that_is_meant(words: list[str], meant: str) -> None:
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert "No such command" in refused.output
    assert f"Did you mean '{meant}'" in refused.output


def test_the_command_that_took_the_place_of_metrics_export_is_named() -> None:
    refused = CliRunner().invoke(app, ["metrics", "export", "job-0123456789ab", "--output", "run.txt"])
    assert refused.exit_code == 2
    assert "No such command 'metrics'. Did you mean 'turnloom export --to openmetrics'?" in refused.output


@pytest.mark.parametrize("word", ["delete", "cancel", "steps"])
def test_a_command_that_stands_without_job_is_named(word: str) -> None:
    refused = CliRunner().invoke(app, ["job", word, "job-0123456789ab"])
    assert refused.exit_code == 2
    assert f"No such command 'job {word}'. Did you mean 'turnloom {word}'?" in refused.output
