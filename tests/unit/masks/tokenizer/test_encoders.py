from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from tests.support.small_tokenizers import byte_level, unigram
from turnloom.masks.tokenizer import encoders
from turnloom.masks.tokenizer.encoders import EncodedPieces, FastEncoder, HuggingFaceEncoder, proved_encoder
from turnloom.masks.tokenizer.probe_texts import probe_corpus
from turnloom.masks.tokenizer.tokenizer_json import take_apart


def test_the_fast_encoder_is_used_where_it_is_identical_on_all_probes() -> None:
    encoder, note = proved_encoder(take_apart(byte_level()).plain)
    assert encoder.name.startswith("fastokens ")
    assert note == ""


def test_a_tokenizer_that_the_fast_encoder_does_not_support_gets_the_other_and_a_note() -> None:
    encoder, note = proved_encoder(take_apart(unigram()).plain)
    assert encoder.name.startswith("tokenizers ")
    assert note.startswith("fastokens does not support this tokenizer (")
    assert note.endswith("encodes")


def test_one_other_id_on_one_probe_is_enough_to_drop_the_fast_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    class AlmostRight(FastEncoder):
        def encode(self, segments: Sequence[str]) -> EncodedPieces:
            encoded = super().encode(segments)
            ids = encoded.ids.copy()
            if "extra probe" in segments:
                ids[-1] += 1
            return EncodedPieces(ids, encoded.lengths)

    monkeypatch.setattr(encoders, "FastEncoder", AlmostRight)
    encoder, note = proved_encoder(take_apart(byte_level()).plain, ["extra probe"])
    assert isinstance(encoder, HuggingFaceEncoder)
    assert "gives other ids" in note
    assert "'extra probe'" in note


def test_a_panic_of_the_fast_encoder_is_no_end_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        pass

    def panics(tokenizer_json: str) -> FastEncoder:
        raise Panic("index out of bounds")

    monkeypatch.setattr(encoders, "FastEncoder", panics)
    encoder, note = proved_encoder(take_apart(byte_level()).plain)
    assert isinstance(encoder, HuggingFaceEncoder)
    assert "(index out of bounds)" in note


@pytest.mark.parametrize("kind", [FastEncoder, HuggingFaceEncoder])
def test_every_encoder_gives_flat_ids_and_lengths(kind: type[FastEncoder] | type[HuggingFaceEncoder]) -> None:
    encoder = kind(take_apart(byte_level()).plain)
    apart = [encoder.encode([piece]).ids for piece in ("hello", "", "e\u0301 world")]
    together = encoder.encode(["hello", "", "e\u0301 world"])
    assert together.lengths.tolist() == [len(ids) for ids in apart]
    assert together.ids.tolist() == np.concatenate(apart).tolist()
    assert together.ids.dtype == np.int32
    assert encoder.encode([]).lengths.tolist() == []


def test_the_probes_are_the_same_at_every_call_and_hold_every_plane() -> None:
    probes = probe_corpus()
    assert probes == probe_corpus()
    assert len(probes) > 3000
    characters = {character for probe in probes for character in probe}
    assert {ord(character) >> 12 for character in characters} >= {0, 1, 2, 3, 4, 0xA, 0xF, 0x1F}
    assert any(len(probe) >= 1000 for probe in probes)


def test_the_fast_encoder_knows_no_control_token() -> None:
    parts = take_apart(byte_level())
    encoder, _ = proved_encoder(parts.plain)
    names = [token["content"] for token in json.loads(byte_level())["added_tokens"]]
    ids = {token["id"] for token in json.loads(byte_level())["added_tokens"]}
    assert not ids & set(encoder.encode(names).ids.tolist())
