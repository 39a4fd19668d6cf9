"""The families against transformers' own classes, with random weights, in fp32: settings, tensors and logits."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from xlab import checkpoints
from xlab.interop.errors import ConversionError
from xlab.interop.families import FAMILIES, Family, differences, family_of, fitting, normal
from xlab.interop.families.conversion import to_ours, to_theirs
from xlab.transformer import Decoder

transformers = pytest.importorskip("transformers", reason="the families are compared with transformers' classes")

TOLERANCE = 2e-5  # relative to the largest logit: fp32, and two orders of summation
SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
GPT2 = {
    **{"vocab_size": 61, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 40},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
WINDOW = {"sliding_window": 7}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 30}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", GPT2),
    "gpt2, wide, exact, untied": (
        "gpt2",
        {**GPT2, "n_inner": 40, "activation_function": "gelu", "tie_word_embeddings": False},
    ),
    "gpt2, relu": ("gpt2", {**GPT2, "activation_function": "relu"}),
    "gpt2, relu2": ("gpt2", {**GPT2, "activation_function": "relu2", "layer_norm_epsilon": 1e-3}),
    "llama": ("llama", GROUPED),
    "llama, biases, tied": (
        "llama",
        {**GROUPED, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "rms_norm_eps": 1e-3},
    ),
    "llama, wide heads": ("llama", {**GROUPED, "head_dim": 12}),
    "llama, gelu": ("llama", {**GROUPED, "hidden_act": "gelu"}),
    "llama, base": ("llama", {**GROUPED, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "llama, linear": (
        "llama",
        {**GROUPED, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}},
    ),
    "llama, llama3": ("llama", {**GROUPED, "rope_parameters": LLAMA3}),
    "llama, yarn": ("llama", {**GROUPED, "rope_parameters": YARN}),
    "llama, yarn, told": (
        "llama",
        {
            **GROUPED,
            "rope_parameters": {**YARN, "attention_factor": 1.2, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False},
        },
    ),
    "llama, yarn of DeepSeek": (
        "llama",
        {**GROUPED, "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7}},
    ),
    "mistral": ("mistral", {**GROUPED, "sliding_window": None}),
    "mistral, window": ("mistral", {**GROUPED, **WINDOW, "head_dim": 16}),
    "qwen2": ("qwen2", GROUPED),
    "qwen2, some windows": ("qwen2", {**GROUPED, **WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen2, told layers": (
        "qwen2",
        {
            **{**GROUPED, **WINDOW, "use_sliding_window": True},
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "qwen3": ("qwen3", {**GROUPED, "head_dim": 16}),
    "qwen3, biases, windows, tied": (
        "qwen3",
        {
            **{**GROUPED, **WINDOW, "head_dim": 8, "attention_bias": True, "tie_word_embeddings": True},
            **{"use_sliding_window": True, "max_window_layers": 2},
        },
    ),
    "olmo2": ("olmo2", GROUPED),
    "olmo2, biases": ("olmo2", {**GROUPED, "attention_bias": True}),
    "gemma2": ("gemma2", {**GROUPED, **WINDOW, "head_dim": 16, "query_pre_attn_scalar": 24}),
    "gemma2, no caps": (
        "gemma2",
        {
            **{**GROUPED, **WINDOW, "head_dim": 8, "attn_logit_softcapping": None, "final_logit_softcapping": None},
            **{"layer_types": ["full_attention", "full_attention", "sliding_attention"], "attention_bias": True},
        },
    ),
    "gpt_neox": ("gpt_neox", SMALL),
    "gpt_neox, sequential, tanh, half": (
        "gpt_neox",
        {
            **{**SMALL, "use_parallel_residual": False, "hidden_act": "gelu_fast", "attention_bias": False},
            "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "partial_rotary_factor": 0.5},
        },
    ),
}


class Tensors:
    """A state dict as published tensors."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]


def made(model_type: str, fields: Mapping[str, Any], seed: int = 0) -> Any:
    """Make transformers' model with random weights, biases and norms too, so that none of them is without effect."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(model_type, **copy.deepcopy(dict(fields)))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.3 if parameter.dim() > 1 else 0.2
            parameter.copy_(torch.randn_like(parameter) * spread + (1.0 if "norm" in name or "ln_" in name else 0.0))
    return model.requires_grad_(False)


def written(model: Any) -> dict[str, Any]:
    """What transformers writes into config.json."""
    config: dict[str, Any] = model.config.to_dict()
    return config


def decoder_of(family: Family, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Decoder:
    decoder = checkpoints.build_decoder(settings)
    decoder.load_state_dict(to_ours(family, settings, Tensors(tensors)))
    return decoder.eval().requires_grad_(False)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest logit."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture(params=MODELS, ids=str)
def published(request: pytest.FixtureRequest) -> tuple[Family, dict[str, Any], Any]:
    model_type, fields = MODELS[request.param]
    model = made(model_type, fields)
    family = family_of(model_type)
    return family, family.settings(written(model)), model


@pytest.mark.parametrize("name", ["llama", "gpt_neox, sequential, tanh, half"])
def test_dynamic_scaling_is_that_of_the_models_whole_context(name: str) -> None:
    model_type, fields = MODELS[name]
    rope = {**fields.get("rope_parameters", {}), "rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    model = made(model_type, {**fields, "max_position_embeddings": 16, "rope_parameters": rope})
    family = family_of(model_type)
    settings = family.settings(written(model))
    ids = torch.randint(0, 61, (2, 40), generator=torch.Generator().manual_seed(3))
    decoder = decoder_of(family, settings, model.state_dict())
    assert difference(decoder(ids[:, :16]), model(ids[:, :16]).logits) < TOLERANCE
    longer = settings | {"max_len": 40}
    stretched = decoder_of(family, longer, model.state_dict())
    assert difference(stretched(ids), model(ids).logits) < TOLERANCE
    # fixed, it is a larger base, which every reader of the family knows
    plain = transformers.AutoConfig.for_model(**family.config(longer))
    again = type(model)._from_config(plain, attn_implementation="eager").eval().requires_grad_(False)
    again.load_state_dict(model.state_dict())
    assert difference(stretched(ids), again(ids).logits) < TOLERANCE


def test_a_configuration_of_transformers_4_says_the_same() -> None:
    new = family_of("llama").settings({**GROUPED, "rope_parameters": LLAMA3})
    scaling = {key: value for key, value in LLAMA3.items() if key != "rope_theta"}
    old = {**GROUPED, "rope_theta": 10_000.0, "rope_scaling": scaling}
    older = {**old, "rope_scaling": {**scaling, "type": scaling["rope_type"]}}
    del older["rope_scaling"]["rope_type"]
    assert family_of("llama").settings(old) == new == family_of("llama").settings(older)
    neox = family_of("gpt_neox").settings({**SMALL, "rotary_pct": 0.5, "rotary_emb_base": 500})
    assert neox["position"]["init_args"] == {"base": 500.0, "fraction": 0.5}


class TestRefusals:
    def test_all_that_a_configuration_asks_for_in_vain_is_named(self) -> None:
        config = {
            **{**GROUPED, "hidden_act": "relu", "quantization_config": {"bits": 4}, "is_causal": False},
            "rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]},
            **{"hidden_size": "many", "num_hidden_layers": 10**9, "rms_norm_eps": None, "vocab_size": True},
        }
        del config["intermediate_size"]
        with pytest.raises(ConversionError) as raised:
            family_of("llama").settings(config)
        for said in (
            "hidden_act 'relu'",
            "quantised weights (quantization_config)",
            "is_causal false",
            "rope_type 'longrope' (XLab has linear, dynamic, yarn, llama3)",
            "hidden_size 'many', which is not a whole number",
            "num_hidden_layers 1000000000, which is not a whole number from 1 to 10000",
            "vocab_size True",
            "no intermediate_size",
        ):
            assert said in str(raised.value)
        assert "rms_norm_eps" not in str(raised.value)  # null is the family's own

    @pytest.mark.parametrize(
        ("model_type", "fields", "said"),
        [
            ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights False"),
            ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
            ("gpt2", {"activation_function": "silu"}, "activation_function 'silu' in a feed-forward without a gate"),
            ("gpt2", {"add_cross_attention": True}, "cross-attention"),
            ("llama", {"hidden_act": "relu2"}, "hidden_act 'relu2' in a gated feed-forward"),
            ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
            ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "for each kind of layer"),
            ("llama", {"rope_scaling": {"rope_type": "linear"}}, "no rope_parameters.factor"),
            ("qwen2", {"layer_types": ["full_attention"]}, "layer_types that are no list of 3"),
            ("qwen2", {"layer_types": ["linear_attention"] * 3}, "layer_types 'linear_attention'"),
            ("qwen2", {"layer_types": ["sliding_attention"] * 3}, "'sliding_attention' without a sliding_window"),
            ("gemma2", {"use_bidirectional_attention": True}, "attention to later tokens"),
        ],
    )
    def test_one_thing(self, model_type: str, fields: dict[str, Any], said: str) -> None:
        config = {**(GPT2 if model_type == "gpt2" else GROUPED), **fields}
        with pytest.raises(ConversionError) as raised:
            family_of(model_type).settings(config)
        assert said in str(raised.value)


class TestFitting:
    @pytest.mark.parametrize("name", MODELS)
    def test_a_family_holds_its_own(self, name: str) -> None:
        model_type, fields = MODELS[name]
        settings = family_of(model_type).settings(fields)
        family = fitting(settings)
        # what is said as a simpler family's model is that: a Mistral without a window is a Llama
        order = [known.model_type for known in FAMILIES]
        assert order.index(family.model_type) <= order.index(model_type)
        assert differences(normal(settings), normal(family.settings(family.config(settings)))) == []

    def test_the_default_model_is_a_llama(self) -> None:
        sizes = {"vocab_size": 61, "max_len": 40, "d_model": 32, "n_layers": 2, "n_heads": 4}
        assert fitting(sizes).model_type == "llama"
        assert fitting({**sizes, "attention": "MultiQueryAttention", "norm": "RMSNorm"}).model_type == "llama"

    def test_the_nearest_family_and_every_part_that_does_not_fit_it(self) -> None:
        settings = family_of("llama").settings(GROUPED)
        settings["attention"]["init_args"]["sinks"] = True
        settings |= {"position": "ALiBi", "logit_cap": 15.0, "value_mix": "ValueResidual"}
        with pytest.raises(ConversionError) as raised:
            fitting(settings)
        said = str(raised.value)
        assert "nearest is Llama" in said
        for part in ("position ALiBi", "logit_cap 15.0", "value_mix ValueResidual", "attention.sinks True"):
            assert part in said
        assert "norm " not in said

    def test_what_transformers_itself_refuses(self) -> None:
        settings = family_of("llama").settings({**GROUPED, "hidden_size": 34, "head_dim": 8})
        assert fitting(settings).model_type != "llama"
        with pytest.raises(ConversionError, match="d_model 34, which is no multiple of n_heads, 4"):
            family_of("llama").config(settings)


class TestParity:
    def test_logits_are_those_of_transformers(self, published: tuple[Family, dict[str, Any], Any]) -> None:
        family, settings, model = published
        decoder = decoder_of(family, settings, model.state_dict())
        ids = torch.randint(0, 61, (2, 40), generator=torch.Generator().manual_seed(1))  # far beyond each window
        assert difference(decoder(ids), model(ids).logits) < TOLERANCE

    def test_and_with_a_cache_on_both_sides(self, published: tuple[Family, dict[str, Any], Any]) -> None:
        family, settings, model = published
        decoder = decoder_of(family, settings, model.state_dict())
        ids = torch.randint(0, 61, (2, 40), generator=torch.Generator().manual_seed(2))
        ours, theirs, kept = [], [], None
        cache = decoder.make_cache(2)
        for start, end in [(0, 17), *((place, place + 1) for place in range(17, 40))]:
            ours.append(decoder(ids[:, start:end], cache))
            done = model(ids[:, start:end], past_key_values=kept, use_cache=True)
            kept = done.past_key_values
            theirs.append(done.logits)
        assert difference(torch.cat(ours, 1), torch.cat(theirs, 1)) < TOLERANCE

    def test_the_way_back_gives_every_tensor_and_field(self, published: tuple[Family, dict[str, Any], Any]) -> None:
        family, settings, model = published
        state = dict(model.state_dict())
        decoder = decoder_of(family, settings, state)
        back = dict(to_theirs(family, settings, decoder.state_dict()))
        renamed = {family.renamed.get(name, name): tensor for name, tensor in state.items()}
        if settings["tie_embeddings"]:
            renamed.pop(family.output)
        assert back.keys() == renamed.keys()
        assert all(back[name].equal(tensor) for name, tensor in renamed.items())
        config = family.config(settings)
        assert differences(normal(settings), normal(family.settings(config))) == []
        again = transformers.AutoConfig.for_model(**config).to_dict()
        assert differences(normal(settings), normal(family.settings(again))) == []
