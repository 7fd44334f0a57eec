"""Exact training masks for any chat template, as a function: no server, no gRPC, no transformers.

>>> from turnloom.masks import Masker, Options, load_model          # doctest: +SKIP
>>> masker = Masker(load_model("Qwen3-0.6B"), Options(max_length=4096))  # doctest: +SKIP
>>> chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
>>> [(row.token_ids, row.target_weights) for row in masker([chat])[0].rows]  # doctest: +SKIP

Install it with `pip install 'turnloom[masks]'`. `turnloom.masks.pipeline` is the page to read first.
"""

from __future__ import annotations

from pathlib import Path

from turnloom.optional import needs

with needs("pip install 'turnloom[masks]'", __name__):
    from turnloom.masks.domain.conversation import Conversation, Training
    from turnloom.masks.domain.errors import ModelNotUsable, PreprocessError
    from turnloom.masks.domain.options import (
        ControlTokens,
        GenerationPrefill,
        Mask,
        OnUnextendable,
        Options,
        PartWeights,
        Tokenization,
        TrainOn,
        TrainOnEot,
        Truncation,
    )
    from turnloom.masks.masker import Masked, MaskedRow, Masker
    from turnloom.masks.model import Model, load_model

__all__ = [
    "ControlTokens",
    "Conversation",
    "GenerationPrefill",
    "Mask",
    "Masked",
    "MaskedRow",
    "Masker",
    "Model",
    "ModelNotUsable",
    "OnUnextendable",
    "Options",
    "PartWeights",
    "PreprocessError",
    "Tokenization",
    "TrainOn",
    "TrainOnEot",
    "Training",
    "Truncation",
    "load_model",
    "prepare_model",
]


def prepare_model(source: str, destination: Path | str, *, revision: str = "", name: str = "") -> Model:
    """Fetch a tokenizer and chat template, write them as a prepared folder, and load that.

    Needs transformers: it converts slow tokenizers and reads the hub. Later runs need only `load_model(destination)`.

    Args:
        source: the name of a repository on the hub, or a local folder.
        destination: the folder to write.
        revision: branch, tag or commit of the repository; empty: its main branch.
        name: what the model is called; empty: the source's name.

    Raises:
        ModelNotUsable: transformers is not installed, or the model can't be fetched or used exactly.
    """
    try:
        from turnloom.masks.prepare import prepare  # noqa: PLC0415  # transformers costs 220 MB and is optional
    except ImportError as error:
        raise ModelNotUsable(
            f"{source}: prepare_model needs transformers ({error}), or give load_model a folder with tokenizer.json "
            "and a chat template"
        ) from error
    prepare(source, Path(destination), name=name, revision=revision)
    return load_model(Path(destination))
