"""Check that the accelerated model supports this TuFT, this machine and this model.

Each check gives a reason not to accelerate, one sentence's end, or "" for none.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "TURNLOOM_TUFT_ACCELERATE"
#: Packages whose behaviour the accelerated model repeats, and the versions that it was tested with.
VERSIONS: Final[Mapping[str, str]] = {
    "tuft": r"0\.2\.2",
    "tinker": r"0\.25\.0",
    "peft": r"0\.20\.\d+",
    "torch": r"2\.1[13]\.\d+",
    "transformers": r"5\.(1[7-9]|2[0-4])\.\d+",
}
#: Files of TuFT that are replaced or relied on: path in the package -> sha256.
SOURCES: Final[Mapping[str, str]] = {
    "backends/hf_training_model.py": "3d23e84a793e69b192361b63a875adcae58f3ffb7bf1d5d5c1f140769924306c",
    "backends/loss_inputs.py": "083d0f2908cc9c88301ae16b86c2f4b711810ae2c43de766a610923e7cdcf4c0",
    "loss_fn/__init__.py": "3bf817437b789caf7b8762ac8892f09644eeb0839df1bf289f77cdf7c965ba9d",
    "loss_fn/cispo.py": "2fc1e1a89d2b25c7e0a9f124938e396ef68ab19356340ab0aa6ff8eccf520756",
    "loss_fn/cross_entropy.py": "7bd0f653f1bc4cd5ce94ebc4c3b3908fe604d47e4395dcc6d874b64232817def",
    "loss_fn/dro.py": "e9dde30cad4ec9b728163ab9bc3c2252b511c9a57e11a8c62cc102c85ff69a31",
    "loss_fn/importance_sampling.py": "313c4eeb72c1860855084c83418a6d6b3885995bc48924c4f71786a32a36d307",
    "loss_fn/ppo.py": "62921858d5aabfd02caf7b55f22ab97ab4831e5643f159a03a60c94051d5592a",
    "loss_fn/trinity_ppo.py": "c8317e1e25781d73b111fc8d5e93edb2f106573c4980564545d7e1f99120d7ba",
}
#: Likewise, of the fsdp backend.
FSDP_SOURCES: Final[Mapping[str, str]] = {
    "backends/fsdp_engine.py": "a44939d8b601eccd5af64a4ce8a7b066a14c6eff010c0e7f1361f17d3392ca9b",
    "backends/fsdp_training_backend.py": "21693caa5d03a910b48a63a56ce1b11fcceae80e57f1e056775c86aab0c1a496",
}
ARCHITECTURES: Final = ("Qwen3ForCausalLM", "Qwen2ForCausalLM", "LlamaForCausalLM")
STATIC_ROTARY: Final = ("default", "linear", "llama3", "yarn")  #: kinds whose frequencies don't depend on the input
LARGEST_HEAD: Final = 256  #: FlashAttention's limit


class Mode(Enum):
    """The operator's choice."""

    OFF = "0"
    ON = "1"  #: where there is a GPU
    ALWAYS = "always"  #: on a CPU too, in plain torch: for tests


def mode(environment: Mapping[str, str]) -> Mode:
    """Read TURNLOOM_TUFT_ACCELERATE. Raises ValueError with what it takes."""
    given = environment.get(VARIABLE) or Mode.ON.value
    try:
        return Mode(given)
    except ValueError:
        raise ValueError(f"{VARIABLE}: {given!r} can't be used; give 0, 1 or always") from None


def installation_reason(sources: Mapping[str, str] = SOURCES) -> str:
    """Compare versions, and the files that are built upon."""
    for package, pattern in VERSIONS.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"{package} is not installed"
        if not re.fullmatch(pattern, found.partition("+")[0]):
            return f"{package} {found} was not tested with it"
    spec = importlib.util.find_spec("tuft")
    if spec is None or spec.origin is None:
        return "tuft has no files"
    return source_reason(Path(spec.origin).parent, sources)


def source_reason(package: Path, sources: Mapping[str, str] = SOURCES) -> str:
    """Compare TuFT's files with those that the accelerated model was written against."""
    for name, digest in sources.items():
        path = package / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            return f"tuft/{name} is not the file of TuFT 0.2.2"
    return ""


def config_reason(config: Any, environment: Mapping[str, str]) -> str:
    """Look at one entry of TuFT's supported_models, and where its model will run."""
    if config.colocate:
        return "the model shares its GPU with sampling (colocate)"
    return place_reason(environment)


def place_reason(environment: Mapping[str, str]) -> str:
    """Look at where Ray's workers are."""
    return "RAY_ADDRESS names a Ray whose workers don't find services.tuft" if environment.get("RAY_ADDRESS") else ""


def model_reason(causal_lm: Any, wanted: Mode) -> str:
    """Look at a loaded model: architecture, precision, place."""
    config = causal_lm.config
    if type(causal_lm).__name__ not in ARCHITECTURES or type(causal_lm).__module__.partition(".")[0] != "transformers":
        return f"its architecture is {type(causal_lm).__name__}, not one of {', '.join(ARCHITECTURES)}"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return "some of its layers use sliding attention"
    rotary = causal_lm.model.rotary_emb.rope_type
    if rotary not in STATIC_ROTARY:
        return f"its rotary embedding is of kind {rotary}"
    if any(module.training for module in causal_lm.modules() if getattr(module, "attention_dropout", 0.0)):
        return "it drops attention out in training"
    return _placement_reason(causal_lm, wanted) or _head_size_reason(causal_lm)


def _placement_reason(causal_lm: Any, wanted: Mode) -> str:
    base = [one for name, one in causal_lm.named_parameters() if "lora_" not in name]
    devices, dtypes = {one.device for one in base}, {one.dtype for one in base}
    if len(devices) != 1 or len(dtypes) != 1:
        return "its weights are spread over devices or precisions"
    device, dtype = devices.pop(), str(dtypes.pop()).removeprefix("torch.")
    if device.type == "cpu":
        if wanted is not Mode.ALWAYS:
            return "there is no CUDA GPU"
        return "" if dtype in ("float32", "bfloat16") else f"its weights are {dtype}"
    if device.type != "cuda":
        return f"its weights are on {device.type}"
    return "" if dtype == "bfloat16" else f"its weights are {dtype}, not bfloat16"


def _head_size_reason(causal_lm: Any) -> str:
    size = causal_lm.model.layers[0].self_attn.head_dim
    return "" if size <= LARGEST_HEAD and size % 8 == 0 else f"its heads have {size} values"
