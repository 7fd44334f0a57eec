"""models.toml: what is wrong is named with its entry; a model that fails leaves the others served."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from services.preprocess.domain.refusals import Loading, ModelNotServed, UnknownModel
from services.preprocess.models.registry import (
    BadModels,
    ModelEntry,
    Registry,
    load_entry,
    prepared_folder,
    read_models,
)
from tests.support.api_calls import write_model
from turnloom.masks.domain.errors import ModelNotUsable
from turnloom.masks.domain.model_files import TEMPLATE
from turnloom.masks.model import Model


def models(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text)
    return path


def test_entries_come_in_order_of_names_with_folders_resolved(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "t.jinja").write_text("x")
    entries = read_models(
        models(
            tmp_path,
            '[[models]]\nname = "z"\nsource = "Org/Name"\nrevision = "main"\n'
            '[[models]]\nname = "a"\nsource = "b"\nchat_template = "t.jinja"\ntuft_model_name = "q"\n',
        )
    )
    assert entries == [
        ModelEntry("a", str(tmp_path / "b"), chat_template=tmp_path / "t.jinja", tuft_model_name="q"),
        ModelEntry("z", "Org/Name", "main"),
    ]
    assert [entry.tuft_model for entry in entries] == ["q", "z"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x", "is not TOML ("),
        ("", "has no [[models]] table; give at least one model."),
        ("models = []", "has no [[models]] table; give at least one model."),
        ("models = 5", "models is the number 5; write [[models]], in two brackets, above each model."),
        ('models = "a"', "models is text; write [[models]], in two brackets, above each model."),
        ('[models]\nname = "a"', "models is an object; write [[models]], in two brackets, above each model."),
        ('models = ["org/name"]', "models[0]: is text; write [[models]] and below it name and source."),
        ('[[models]]\nsource = "x/y"', "models[0]: has no 'name'; add it."),
        ('[[models]]\nname = ""\nsource = "x/y"', "models[0].name: is empty; give text in quotes."),
        ('[[models]]\nname = "a"\nsource = ["b"]', "models[0].source: is a list; give text in quotes."),
        ('[[models]]\nname = 2026-01-01\nsource = "b"', "models[0].name: is a Python date; give text in quotes."),
        (
            '[[models]]\nname = "a"\nsource = "~nobody-here/x"',
            "models[0].source: there is no folder '~nobody-here/x'; ",
        ),
        ("models = " + "[" * 5000, "is not TOML ("),
        ("other = 1", "has 'other'; give [[models]] tables only."),
        ('[[models]]\nname = "a"', "models[0]: has no 'source'; add it."),
        ('[[models]]\nname = "a"\nsource = 3', "models[0].source: is the number 3; give text in quotes."),
        ('[[models]]\nname = "a"\nsource = "x/y"\nnmae = "b"', "models[0]: has the unknown key 'nmae'; use "),
        (
            '[[models]]\nname = "a"\nsource = "./gone"',
            "models[0].source: there is no folder './gone'; name one that exists, or a hub model.",
        ),
        (
            '[[models]]\nname = "a"\nsource = "x/y"\nchat_template = "g"',
            "models[0].chat_template: there is no file 'g'",
        ),
        ('[[models]]\nname = "a"\nsource = "x/y"\n' * 2, "has the model 'a' twice; give each a name of its own."),
    ],
)
def test_a_bad_file_names_the_entry_and_the_key(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(BadModels) as caught:
        read_models(models(tmp_path, text))
    assert sentence in str(caught.value)
    assert str(tmp_path / "models.toml") in str(caught.value)


def test_a_file_that_is_not_there_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(BadModels, match="set TURNLOOM_MODELS to the file of models"):
        read_models(tmp_path / "none.toml")


def test_a_model_that_fails_leaves_the_others_served(tmp_path: Path, model_folder: Path) -> None:
    def load(entry: ModelEntry, cache: Path) -> Model:
        if entry.name == "bad":
            raise ModelNotUsable("it has no vocabulary")
        return load_entry(entry, cache)

    registry = Registry([ModelEntry("bad", "x"), ModelEntry("good", str(model_folder))], tmp_path, load)
    with pytest.raises(Loading):
        registry.get("good")
    with pytest.raises(Loading):
        registry.served()
    assert not registry.complete
    registry.load()
    assert registry.get("good").name == "good"
    assert [entry.name for entry, _ in registry.served()] == ["good"]
    assert not registry.complete
    with pytest.raises(ModelNotServed) as caught:
        registry.get("bad")
    assert str(caught.value) == "Model 'bad' could not be loaded: it has no vocabulary"
    with pytest.raises(UnknownModel) as unknown:
        registry.get("other")
    assert str(unknown.value) == (
        "Model 'other' is not served here (served: bad, good); name one of these, or add it to models.toml."
    )


def test_a_system_error_is_said_with_its_file_and_without_its_number(tmp_path: Path) -> None:
    def load(entry: ModelEntry, cache: Path) -> Model:
        raise OSError(28, "No space left on device", str(cache / "a"))

    registry = Registry([ModelEntry("full", "x")], tmp_path, load)
    registry.load()
    with pytest.raises(ModelNotServed) as caught:
        registry.get("full")
    assert str(caught.value) == f"Model 'full' could not be loaded: {tmp_path}/a: No space left on device"


def test_a_bug_in_one_model_does_not_end_the_loading(tmp_path: Path, model_folder: Path) -> None:
    def load(entry: ModelEntry, cache: Path) -> Model:
        if entry.name == "bad":
            raise KeyError("private")
        return load_entry(entry, cache)

    registry = Registry([ModelEntry("bad", "x"), ModelEntry("good", str(model_folder))], tmp_path, load)
    registry.load()
    assert registry.get("good").name == "good"
    with pytest.raises(ModelNotServed, match="unforeseen KeyError; the server's log says where"):
        registry.get("bad")


def test_a_pin_that_does_not_match_is_refused_with_both_hashes(tmp_path: Path, model_folder: Path) -> None:
    entry = ModelEntry("a", str(model_folder), template_sha256="0" * 64)
    with pytest.raises(BadModels, match=r"^template_sha256: is [0-9a-f]{64}, but models.toml pins 0{64};"):
        load_entry(entry, tmp_path)


def test_a_hub_name_never_means_a_folder_below_the_working_directory(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model_folder, tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[4]))
    for entry in (ModelEntry("a", "owner/name"), ModelEntry("a", "owner/name", chat_template=model_folder / TEMPLATE)):
        assert prepared_folder(entry, tmp_path / "cache") is None
        with pytest.raises(BadModels, match=r"^'owner/name': preparing it failed: owner/name can't be fetched from "):
            load_entry(entry, tmp_path / "cache")


def test_a_source_that_cannot_be_prepared_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadModels, match=r"^'.*empty': preparing it failed: "):
        load_entry(ModelEntry("a", str(tmp_path / "empty")), tmp_path / "cache")


def test_a_plain_tokenizer_folder_is_prepared_once_with_the_given_template(tmp_path: Path) -> None:
    plain = write_model(tmp_path / "plain")
    (plain / "manifest.json").unlink()
    template = tmp_path / "other.jinja"
    template.write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}")
    entry = ModelEntry("a/b", str(plain), chat_template=template)
    first = load_entry(entry, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    stamp = (folder / "manifest.json").stat().st_mtime_ns
    assert first.template_sha256 == load_entry(entry, tmp_path / "cache").template_sha256
    assert (folder / "manifest.json").stat().st_mtime_ns == stamp
    template.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}")
    assert load_entry(entry, tmp_path / "cache").template_sha256 != first.template_sha256
