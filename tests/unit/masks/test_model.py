from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path

import pytest

from tests.support.small_tokenizers import byte_level, unigram, word_piece
from turnloom.masks import prepare as preparing
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import ModelNotUsable, TemplateError
from turnloom.masks.domain.options import Options
from turnloom.masks.model import Model, build_model, load_model
from turnloom.masks.pipeline import preprocess
from turnloom.masks.prepare import main, prepare

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def source(folder: Path, tokenizer_json: str | None = None, template: str | dict[str, str] | None = TEMPLATE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer_json or byte_level(), encoding="utf-8")
    config: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    if isinstance(template, str):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8", newline="")
    elif template is not None:
        config["chat_template"] = [{"name": name, "template": text} for name, text in template.items()]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source and what was prepared of it, made once; tests that change files change a copy."""
    folder = tmp_path_factory.mktemp("models")
    prepare(str(source(folder / "source")), folder / "prepared", name="small")
    return folder


@pytest.fixture
def prepared(once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once / "prepared", tmp_path / "prepared"))


def trained(model: Model) -> str:
    chat = Conversation([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}])
    (example,) = preprocess(chat, Options(), model).examples
    return model.vocabulary.decode(example.token_ids[1:][example.target_weights() > 0]).decode()


def test_a_prepared_folder_loads_with_its_name_hashes_and_special_tokens(prepared: Path) -> None:
    model = load_model(prepared)
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert model.name == "small"
    assert (model.tokenizer_sha256, model.template_sha256) == (
        manifest["tokenizer_sha256"],
        manifest["template_sha256"],
    )
    assert model.special_tokens["eos_token"] == model.stop_token == "<|im_end|>"
    assert model.encoder_name.startswith("fastokens")
    assert model.vocab_size == model.vocabulary.stock.get_vocab_size()
    assert trained(model) == "yes<|im_end|>"


def test_a_name_given_at_load_wins(prepared: Path) -> None:
    assert load_model(prepared, "other").name == "other"


def test_preparing_twice_gives_the_same_files(once: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    prepare(str(once / "source"), again, name="small")
    for file in (once / "prepared").iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()
    assert not [file for file in again.iterdir() if file.name.startswith(".")]


@pytest.mark.parametrize("file", ["tokenizer.json", "chat_template.jinja", "special_tokens_map.json"])
def test_a_changed_file_is_refused(prepared: Path, file: str) -> None:
    (prepared / file).write_text((prepared / file).read_text() + "\n")
    with pytest.raises(ModelNotUsable, match=f"{file} was changed since it was prepared; prepare the model again"):
        load_model(prepared)


@pytest.mark.parametrize("file", ["tokenizer.json", "chat_template.jinja", "special_tokens_map.json"])
def test_a_missing_file_is_named(prepared: Path, file: str) -> None:
    (prepared / file).unlink()
    with pytest.raises(ModelNotUsable, match=f"{file} can't be read"):
        load_model(prepared)


def test_a_folder_without_a_tokenizer_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ModelNotUsable, match=r"has no tokenizer\.json; turnloom\.masks\.prepare_model"):
        load_model(tmp_path)


def test_a_manifest_that_is_no_manifest_says_how_to_make_one(prepared: Path) -> None:
    (prepared / "manifest.json").write_text("[]")
    with pytest.raises(
        ModelNotUsable, match=r"is no prepared model .*; write it with python -m turnloom\.masks\.prepare"
    ):
        load_model(prepared)


def test_a_manifest_of_another_version_is_refused(prepared: Path) -> None:
    manifest = json.loads((prepared / "manifest.json").read_text())
    (prepared / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(ModelNotUsable, match="has version 99, not 1; prepare it again"):
        load_model(prepared)


def test_a_template_of_ones_own_replaces_the_sources(tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_bytes(TEMPLATE.replace("<|im_end|>", "<|endoftext|>").replace("\n", "\r\n").encode())
    manifest = prepare(str(source(tmp_path / "source")), tmp_path / "prepared", chat_template=own)
    assert (tmp_path / "prepared" / "chat_template.jinja").read_bytes() == own.read_bytes()
    assert "chat template of own.jinja" in manifest.notes
    assert trained(load_model(tmp_path / "prepared")) == "yes<|endoftext|>"


def test_of_several_templates_the_default_is_taken_and_said(tmp_path: Path) -> None:
    templates = {"default": TEMPLATE, "tool_use": "{{ messages }}"}
    manifest = prepare(str(source(tmp_path / "source", template=templates)), tmp_path / "prepared")
    assert "of the templates default, tool_use the one named default is used" in manifest.notes


def test_a_source_without_template_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(ModelNotUsable, match="the source has no chat template; give one with --chat-template FILE"):
        prepare(str(source(tmp_path / "source", template=None)), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_a_template_that_does_not_compile_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="line 1 of the chat template"):
        prepare(str(source(tmp_path / "source", template="{% for %}")), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_a_local_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotUsable, match="there is no such folder"):
        prepare(str(tmp_path / "nowhere"), tmp_path / "prepared")


def test_a_hub_out_of_reach_gives_one_sentence_that_names_hf_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise ConnectionError("connection refused\nand more lines")

    monkeypatch.setattr(preparing.huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["someone/some-model", str(tmp_path / "prepared"), "--revision", "v1"]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence == (
        "someone/some-model@v1 can't be fetched from http://127.0.0.1:9 (connection refused); check name and revision, "
        "set HF_ENDPOINT to a hub that can be reached from here, or give a local folder"
    )


def test_the_command_prints_the_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(source(tmp_path / "source")), str(tmp_path / "prepared"), "--name", "small"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "small"


def test_the_help_is_for_whoever_prepares_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert "local folder, or OWNER/NAME on the hub" in told
    assert "Raises:" not in told


@pytest.mark.parametrize("tokenizer_json", [unigram(), word_piece()])
def test_other_families_are_prepared_too(tmp_path: Path, tokenizer_json: str) -> None:
    prepare(str(source(tmp_path / "source", tokenizer_json)), tmp_path / "prepared")
    assert load_model(tmp_path / "prepared").notes


def test_a_tokenizer_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = source(tmp_path / "source", "{}")
    with pytest.raises(ModelNotUsable, match="transformers can't load a tokenizer"):
        prepare(str(folder), tmp_path / "prepared")


def test_models_of_one_tokenizer_share_its_vocabulary_as_long_as_one_of_them_lives() -> None:
    tokenizer = byte_level() + " "  # a text of this test alone

    def built(name: str, tokenizer_json: str = tokenizer) -> Model:
        return build_model(name, tokenizer_json, TEMPLATE, {"eos_token": "<|im_end|>"})

    one, other, third = built("one"), built("other"), built("third", tokenizer + " ")
    assert one.vocabulary is other.vocabulary is not third.vocabulary
    kept = weakref.ref(one.vocabulary)
    del one, other
    gc.collect()
    assert kept() is None
