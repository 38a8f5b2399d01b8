"""The size dial: from an architecture's name and a number of parameters to its shape and learning rate.

Any architecture of `transformers` that has a causal or a masked language model can be asked for; how its configuration
names width, depth and heads is found out from the configuration itself, and parameters are counted by building small
models without memory (on the meta device), so that nothing here knows an architecture by name.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from halfpint.errors import HalfpintError, SettingError, nearest, need
from halfpint.models import architectures
from halfpint.models.architectures import need_transformers

CAUSAL, MASKED = "causal", "masked"
OBJECTIVES = (CAUSAL, MASKED)
TOLERANCE = 0.1
"""How far the number of parameters may be from what was asked, as a share of it."""

# Names of models, without dashes, whose architecture transformers has under the name of an earlier one.
_FAMILIES = (
    (r"llama[123](\.\d)?|tinyllama|smollm[12]?", "llama"), (r"qwen(1\.5|2\.5)(coder)?|qwen2coder", "qwen2"),
    (r"phi(3\.5|3mini|4|4mini)", "phi3"), (r"phi(1|1\.5|2)", "phi"), (r"gemma1(\.1)?", "gemma"),
    (r"lfm2\.5", "lfm2"), (r"minilm", "bert"),
)  # fmt: skip
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
# Up to so many parameters, so many tokens: the embeddings of a small model should not be all of it.
_VOCABULARIES = ((3e5, 512), (1e6, 1024), (2.5e6, 2048), (6e6, 4096), (2.5e7, 8192), (8e7, 16384), (math.inf, 32768))
_FFN_NAMES = ("intermediate_size", "n_inner", "hidden_dim", "ffn_dim", "ffn_hidden_size", "d_ff", "encoder_ffn_dim")
# Of Mamba-2: all heads share one B and C, as in its paper's models; a state and chunks that suit short rows on a CPU.
_STATE_SPACE = {"n_groups": 1, "state_size": 64, "chunk_size": 64}
_STEP = 64  # widths are multiples of it
_FFN_STEP = 32
_WIDEST = 8192
_WIDE = 256  # from here on heads of 64; below it heads of 32, else there would be but a few
_SHARED_HEADS = 512  # up to this width each head has keys and values of its own
_MOST_EMBEDDED = 0.85  # share of the parameters that embeddings may take


def parse_parameters(size: str, place: str = "size") -> int:
    """The number in "10M", "1.5m", "135M", "0.6B", "500k" or "8_300_000".

    Raises:
        HalfpintError: it is no such number, or below 10,000.
    """
    found = re.fullmatch(r"\s*(\d+(?:[_,]\d{3})*(?:\.\d+)?)\s*([kmb]?)\s*", str(size).lower())
    number = round(float(re.sub("[_,]", "", found[1])) * _UNITS[found[2]]) if found else 0
    if number < 10_000:
        raise SettingError(
            place,
            wanted=f"a number of {'parameters of ' if place == 'size' else ''}10k or more",
            got=repr(size),
            todo='Write "10M", "1.5M" or "500k".',
        )
    return number


def shown_parameters(number: int) -> str:
    """A number of parameters as people write it: "8.3M"."""
    for unit, word in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{word}"
    return str(number)


def default_vocabulary(parameters: int) -> int:
    """Tokens of the vocabulary for a model of so many parameters: about a fifth of them, no more than 32,768 tokens."""
    return next(tokens for most, tokens in _VOCABULARIES if parameters < most)


def resolve(arch: str, objective: str = "") -> tuple[str, str]:
    """The `model_type` of `transformers` and the objective for what a person wrote.

    A multimodal architecture stands for its text model ("gemma3" for "gemma3_text"). An empty objective takes the
    architecture's own.

    Raises:
        HalfpintError: there is no such architecture or objective, or the one cannot be trained by the other.
    """
    need_transformers("a new model")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if objective and objective not in OBJECTIVES:
        raise SettingError(
            "objective", wanted="causal or masked", got=repr(objective), todo=nearest(objective, OBJECTIVES)
        )
    causal, masked = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), set(MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    known = sorted(((causal | masked) & set(CONFIG_MAPPING_NAMES)) | set(architectures.own()))
    name = _named(arch, causal, known)
    if name in architectures.own():
        causal, masked = (causal | {name}, masked) if _writes(name) else (causal, masked | {name})
    if name not in known:
        raise SettingError(
            "arch", wanted="an architecture of transformers with a language model", got=repr(arch),
            todo=nearest(arch, ["ngram", *known], "For example ngram, llama, qwen3, gpt2, bert or modernbert."),
        )  # fmt: skip
    # Encoders are listed among the causal ones as well, for use as decoders beside another encoder.
    own = MASKED if name in masked else CAUSAL
    if getattr(default_config(name), "is_encoder_decoder", False):
        raise HalfpintError(
            "arch", wanted="an encoder or a decoder", got=f"{arch!r}, which is both", todo="Take llama or bert, say."
        )
    if objective and objective != own:
        if own == MASKED:
            why = f"{arch} reads in both directions, so the next word would be known to it"
            other = "a decoder such as llama"
            if f"{name}_causal" in architectures.own():  # it says itself why, and has another in its place
                why = f"{arch} is an encoder: {_module(name).BOTH_WAYS}"
                other = f"{name.replace('_', '-')}-causal, which reads from left to right"
        else:
            why = f"{arch} reads from left to right, so it cannot use what stands after a mask"
            other = "an encoder such as bert or modernbert"
        raise HalfpintError(
            "objective", wanted=f"{own} for the architecture {arch!r}", got=f"{objective!r} ({why})",
            todo=f"Leave the objective out, or take {other}.",
        )  # fmt: skip
    return name, own


def _named(arch: str, causal: Collection[str], known: Collection[str]) -> str:
    """The `model_type` for a name as people write it: "gemma3", "transformer-xl", "Phi-3", "llama3.2"."""
    plain = arch.lower().replace("-", "_")
    for name in (arch, plain, plain.replace("_", ""), family_of(arch)):
        if f"{name}_text" in causal:
            return f"{name}_text"
        if name in known:
            return name
    return arch


def family_of(arch: str) -> str:
    """The architecture of a family of models that has none of its own name: "llama" for "Llama-3.2"; else nothing."""
    name = re.sub(r"[-_ ]", "", arch.lower())
    return next((family for pattern, family in _FAMILIES if re.fullmatch(pattern, name)), "")


def _writes(name: str) -> bool:
    """Whether an architecture of halfpint's own is a causal language model."""
    auto = need_transformers("a new model")
    return type(default_config(name)) in auto.AutoModelForCausalLM._model_mapping


@cache
def default_config(model_type: str) -> Any:
    """The configuration of `transformers` with its own defaults; nobody may change it."""
    return need_transformers("a new model").AutoConfig.for_model(model_type)


def new_model(model_type: str, settings: Mapping[str, Any], *, meta: bool = False) -> Any:
    """A new language model with random weights; `meta` builds it without memory, to count.

    Args:
        model_type: as `resolve` gives it.
        settings: configuration, as `size_dial` gives it.
    """
    torch = need("torch", "a new model")
    transformers = need_transformers("a new model")
    _, objective = resolve(model_type)
    config = transformers.AutoConfig.for_model(model_type, **settings)
    kind = transformers.AutoModelForMaskedLM if objective == MASKED else transformers.AutoModelForCausalLM
    if not meta:
        return kind.from_config(config)
    with torch.device("meta"):
        return kind.from_config(config)


def parameters_of(model: Any) -> int:
    """Parameters of a model, each tensor once: tied embeddings count as one."""
    return sum(tensor.numel() for tensor in model.parameters())


def learning_rate(parameters: int, batch_tokens: float = 4096) -> float:
    """Peak rate of AdamW for a model of so many parameters and batches of so many tokens.

    Source: Bi et al. 2024, "DeepSeek LLM", section 3.1: 0.3118 C^-0.125 at batches of 0.2920 C^0.3271 tokens, for the
    compute C = 6 N 20 N of Hoffmann et al. 2022; smaller batches by the square root of the ratio, as Malladi et al.
    2022, "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", section 5, derive for Adam.
    """
    compute = 6.0 * parameters * 20.0 * parameters
    best_batch = 0.2920 * compute**0.3271
    return float(f"{0.3118 * compute**-0.125 * min(1.0, math.sqrt(batch_tokens / best_batch)):.3g}")


def size_dial(arch: str, parameters: int, vocabulary: int, context: int) -> tuple[dict[str, Any], float]:
    """Configuration and learning rate (at batches of 4,096 tokens) for a model of about so many parameters.

    Width is a multiple of 64, heads are 64 wide (32 below a width of 256), key and value heads are as many as heads
    up to a width of 512 and a third (or a half) of them above, embeddings are tied, dropout is off (Geiping & Goldstein
    2023, "Cramming", section 4.3: what is read about once is not overfitted), and the width of the feed-forward layers
    takes up what is left. Depth to width is as 1 to 32 at 10M and flatter above: deep and thin, as Liu et al. 2024,
    "MobileLLM", section 3.2, find best for small models.

    Args:
        arch: as `resolve` takes it.
        parameters: all of them, embeddings included, tied ones once.
        vocabulary: tokens.
        context: most tokens of a sequence.

    Raises:
        HalfpintError: no such architecture, or none of its shapes comes within 10 % of the number.
    """
    model_type, _ = resolve(arch)
    aspect = 32.0 * max(1.0, parameters / 1e7) ** 0.15
    best: tuple[float, dict[str, Any]] | None = None
    for width in range(_STEP, _WIDEST + 1, _STEP):
        if width * vocabulary > _MOST_EMBEDDED * parameters:
            break
        shape = _shape(model_type, width, parameters, vocabulary, context)
        if shape is None:
            continue
        depth, ffn, reached = shape
        off = abs(reached / parameters - 1)
        if off > TOLERANCE:
            continue
        # Twice as flat as wanted costs as much as 5 % off the number.
        cost = abs(math.log2(width / depth / aspect)) + 20 * max(0.0, off - 0.02)
        if best is None or cost < best[0]:
            best = cost, _settings(model_type, width, depth, ffn, vocabulary, context)
        elif width > 4 * aspect * depth:
            break  # from here on it only gets flatter
    reached = parameters_of(new_model(model_type, best[1], meta=True)) if best else 0
    if best is None or abs(reached / parameters - 1) > TOLERANCE:
        embedded = _STEP * vocabulary
        todo = (
            f"Take a vocabulary of at most {default_vocabulary(parameters):,} tokens, or a larger size."
            if embedded > _MOST_EMBEDDED * parameters / 2
            else "Take another architecture or size."
        )
        raise HalfpintError(
            "size", wanted=f"a {arch} of about {shown_parameters(parameters)} parameters",
            got=f"no such shape with a vocabulary of {vocabulary:,} tokens "
            f"({embedded:,} parameters of embeddings at the least width, {_STEP})", todo=todo,
        )  # fmt: skip
    return best[1], learning_rate(parameters)


def _shape(model_type: str, width: int, parameters: int, vocabulary: int, context: int) -> tuple[int, int, int] | None:
    """Depth, feed-forward width and the parameters they come to, nearest to `parameters`; None where there is none."""
    half, full, per_ffn = _counts(model_type, width, context)
    outside = half + width * (vocabulary - _FEW_TOKENS)  # tied embeddings: each token is one row
    inner = per_ffn != 0
    usual = _usual_ffn(width, per_ffn) if inner else 0
    per_layer = full + per_ffn * (usual - _STEP if inner else 0)
    depth = max(1, round((parameters - outside) / per_layer)) if per_layer > 0 else 0
    if depth < 1 or parameters <= outside:
        return None
    ffn = usual
    if inner:
        left = (parameters - outside) / depth - full
        ffn = round((_STEP + left / per_ffn) / _FFN_STEP) * _FFN_STEP
        ffn = min(max(ffn, _nearest_step(usual * 0.7)), _nearest_step(usual * 1.4))
    reached = round(outside + depth * (full + per_ffn * ((ffn or _STEP) - _STEP)))
    if inner and _grows(model_type, width, context):
        if depth > width // 4:
            return None  # deeper than any that is taken, and slow to count
        for _ in range(_TRIES):
            settings = _settings(model_type, width, depth, ffn, vocabulary, context)
            reached = parameters_of(new_model(model_type, settings, meta=True))
            change = round((parameters - reached) / depth / per_ffn / _FFN_STEP) * _FFN_STEP
            if not change or ffn + change < _FFN_STEP:
                break
            ffn += change
    return depth, ffn, reached


@cache
def _grows(model_type: str, width: int, context: int) -> bool:
    """Whether the layers of an architecture differ, so that many are not a multiple of few."""
    half, full, _ = _counts(model_type, width, context)
    settings = _settings(model_type, width, 6, _STEP, _FEW_TOKENS, context)
    return abs(parameters_of(new_model(model_type, settings, meta=True)) / (half + 6 * full) - 1) > _UNEVEN


_FEW_TOKENS = 64
_UNEVEN, _TRIES = 0.01, 4  # of the parameters; counts of a model whose layers differ, until it is near


@cache
def _counts(model_type: str, width: int, context: int) -> tuple[float, float, float]:
    """Parameters outside the layers (with few tokens), of a layer whose inner width is 64, and per unit of that width.

    Depth and inner width each add the same every time, so three small models tell all.
    """

    def count(depth: int, ffn: int) -> int:
        settings = _settings(model_type, width, depth, ffn, _FEW_TOKENS, context)
        return parameters_of(new_model(model_type, settings, meta=True))

    # The first layer of some is unlike the others (ModernBERT's has no norm), so the second and third are compared.
    two, three = count(2, _STEP), count(3, _STEP)
    return two - 2 * (three - two), three - two, (count(2, 2 * _STEP) - two) / (2 * _STEP)


def _usual_ffn(width: int, per_ffn: float) -> int:
    """8/3 of the width with a gate (three matrices), else 4 times: the same number of parameters.

    Source: Shazeer 2020, "GLU Variants Improve Transformer", section 3.
    """
    return _nearest_step(width * (8 / 3 if per_ffn > 2.5 * width else 4))


def _nearest_step(value: float) -> int:
    return max(_FFN_STEP, round(value / _FFN_STEP) * _FFN_STEP)


def _settings(model_type: str, width: int, depth: int, ffn: int, vocabulary: int, context: int) -> dict[str, Any]:
    """Arguments of the configuration's class, by the names that it has itself."""
    config = default_config(model_type)
    own = getattr(config, "attribute_map", {})
    head = 64 if width >= _WIDE and width % 64 == 0 else 32
    heads = width // head
    offset = int(config.pad_token_id or 0) + 1 if "roberta" in model_type else 0
    wanted: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": _kv_heads(heads, width),
        "head_dim": head,
        "embedding_size": width,
        "query_pre_attn_scalar": head,
        "max_position_embeddings": context + offset,
        "original_max_position_embeddings": context,
        "mem_length": context,
        "tie_word_embeddings": True,
    }
    settings = {own.get(name, name): value for name, value in wanted.items() if _has(config, name)}
    if _has(config, "expand") and _has(config, "num_heads"):  # state space: as many heads as the inner width holds
        settings["num_heads"] = width * int(config.expand) // head
        settings |= {name: value for name, value in _STATE_SPACE.items() if _has(config, name)}
    if _has(config, "full_attn_idxs"):  # short convolutions, and attention in every third layer
        attends = min(2, depth - 1)
        settings["layer_types"] = ["full_attention" if at % 3 == attends else "conv" for at in range(depth)]
        settings["block_auto_adjust_ff_dim"] = False  # the inner width is what is asked for
    inner = next((name for name in _FFN_NAMES if _has(config, name)), None)
    if inner:
        settings[own.get(inner, inner)] = ffn
    if isinstance(getattr(config, "sliding_window", None), int) and not isinstance(
        getattr(type(config), "sliding_window", None), property
    ):
        settings["sliding_window"] = min(config.sliding_window, context)
    for name, value in config.to_dict().items():
        if "drop" in name and "classifier" not in name and isinstance(value, float) and value:
            settings[name] = 0.0
        # Ids of a vocabulary that is not ours; who has a tokenizer sets them anew.
        if name.endswith("_token_id") and isinstance(value, int) and value >= vocabulary:
            settings[name] = 0
    return {**settings, **_own_dial(model_type, settings)}


def _own_dial(model_type: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What an architecture of halfpint's own sets besides for a new model: its module's `dial`, where it has one."""
    dial = getattr(_module(model_type), "dial", None)
    return dial(settings) if dial else {}


def _module(model_type: str) -> Any:
    """The module of an architecture of halfpint's own; None for one of transformers."""
    name = architectures.own().get(model_type)
    return importlib.import_module(name) if name else None


def _has(config: Any, name: str) -> bool:
    held = config.to_dict()
    return getattr(config, "attribute_map", {}).get(name, name) in held


def _kv_heads(heads: int, width: int) -> int:
    if width <= _SHARED_HEADS:
        return heads
    return next((heads // share for share in (3, 2) if heads % share == 0), heads)
