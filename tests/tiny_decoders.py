"""Tiny random language models of every type that transformers has, from rules on the names of config fields."""

import copy
import re

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

BLOCKS, WIDTH, VOCAB = 3, 64, 256
RULES = [  # the first pattern that a whole-number field's name fits gives its value
    (r".*token_(id|index)|.*token_ids", None),
    (
        r"(attention_|decoder_|embed_?(ding)?_|word_embed_proj_|n_|emb_)?(hidden_size|d_model|dim|embd?|model_dim|embed)",
        WIDTH,
    ),
    (r"(word_)?embed(ding)?_(proj_)?(dim|size)|model_dim|lru_width", WIDTH),
    (
        r"(moe|(moe_)?shared(_experts?)?|expert(_ffn)?)_(intermediate|hidden|latent)_size|shared_experts?_(intermediate_)?size",
        32,
    ),
    (
        r"(dense_)?(mlp_)?intermediate_size(_mlp)?|(decoder_|encoder_|block_)?(ffn?|ff)_dim|n_inner|d_ff|dim_ff|dff|ffn_hidden_size",
        96,
    ),
    (r"(dense_mlp_intermediate|mlp_hidden)_size|d_inner|inner_dim|feed_forward_size", 96),
    (r"(num_|n_)?(hidden_|decoder_|encoder_)*layers?|depth", BLOCKS),
    (r"(num_|n_)?(decoder_|encoder_)?(attention_|attn_)?heads?|nhead", 4),
    (r"(num_|n_)?(key_value|kv)_heads|n_head_kv|kv_n_heads|multi_query_group_num|num_kv_heads", 2),
    (r"(attention_|global_)?head_dim|kv_channels|d_kv|d_head|v_head_dim|kv_lora_rank|o_lora_rank|qk_head_dim", 16),
    (r"qk_(rope|nope)_head_dim|rotary_dim", 8),
    (r"q_lora_rank", 24),
    (r"(num_|n_)(local_|routed_)?experts|moe_num_experts|num_routed_experts", 4),
    (r"num_experts_per_tok(en)?|moe_(topk|k|top_k|router_topk)|top_k(_experts)?|num_selected_experts", 2),
    (r"n_group|topk_group|first_k_dense_replace|num_dense_layers|num_expert_group", 1),
    (r"vocab_size(_per_layer_input)?", VOCAB),
    (r"max_(position_embeddings|seq(uence)?_len(gth)?|target_positions|source_positions|len)|n_(positions|ctx)", 128),
    (r"seq_length|context_length", 128),
    (r"(sliding|attention|local)_(window|attention)(_size)?|window_size|index_topk|hidden_size_per_layer_input", 8),
    (r"(mamba_d_)?state(_size)?", 8),
    (r"mamba_(d_head|head_dim|chunk_size)|chunk_size|index_head_dim|linear_(key|value)_head_dim", 16),
    (r"mamba_(n|num)_heads|mamba_n_heads", 8),
    (r"(mamba_)?(n_?groups)|num_nextn_predict_layers", 1),
    (r"mamba_dt_rank|time_step_rank|linear_num_value_heads|index_n_heads", 4),
    (r"n_mamba_heads|linear_num_key_heads", 2),
    (r"mamba_d_ssm", 128),
    (r"image_size", 32),
]
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LATENT = {"head_dim": 8, "num_key_value_heads": 4}  # multi-head latent attention turns 8 of 16 numbers
ZAMBA = {
    "num_hidden_layers": 4,
    "attention_hidden_size": 128,
    "attention_head_dim": 32,
    "num_key_value_heads": 4,
    "layers_block_type": ["linear_attention", "hybrid"] * 2,
    "use_mamba_kernels": False,
}
GEMMA4 = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "per_layer_config": {1: {"head_dim": 32}, 3: {"head_dim": 32}},
}
OWN = {  # what the rules cannot know, by model type
    **dict.fromkeys(("axk1", "axk2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa", "longcat_flash", "youtu"), LATENT),
    "bailing_hybrid": LATENT
    | {
        "linear_head_dim": 16,
        "linear_num_heads": 4,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
    },
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE},
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "deepseek_v2": LATENT
    | {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "topk_method": "greedy"},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "dots3_note_text": {
        "per_layer_config": {
            number: {"num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 24}
            | {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16}
            for number in range(BLOCKS)
        },
        "head_dim": 16,
        "num_key_value_heads": 4,
        "shared_experts_intermediate_size": 32,
    },
    "gemma3n_text": {
        "num_hidden_layers": 5,
        "intermediate_size": [96] * 5,
        "layer_types": [f"{kind}_attention" for kind in ("sliding", "full", "sliding", "sliding", "full")],
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0, 0.0],
        "laurel_rank": 8,
    },
    "gemma4_text": GEMMA4,
    "gemma4_unified_text": GEMMA4,
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": 96},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8},
    **{name: {"head_dim": 16} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral", "mixtral")},
    **{name: {"pooler_hidden_size": WIDTH} for name in ("deberta", "deberta-v2")},
    "esm": {"vocab_size": VOCAB, "pad_token_id": 0, "mask_token_id": 3},
    **{name: {"rope_parameters": ROPE | {"mrope_section": [2, 3, 3]}} for name in ("qwen2_vl_text", "qwen2_5_vl_text")},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    "reformer": {
        "is_decoder": True,
        "axial_pos_embds": False,
        "attn_layers": ["local", "local"],
        "attention_head_size": 16,
    },
    "xlm": {"emb_dim": 64, "n_langs": 1},
    "xlnet": {"d_head": 16},
    "xlstm": {"num_blocks": 3},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "zaya": {"num_experts_per_tok": 1},
    "zamba": ZAMBA | {"n_mamba_heads": 2, "mamba_dt_rank": 4},
    "zamba2": ZAMBA
    | {"kv_channels": None, "num_query_groups": None, "n_mamba_heads": 8, "mamba_headdim": 16, "adapter_rank": 8}
    | {"hybrid_layer_ids": [1, 3]},
}
SKIPPED = {"transformers_version", "architectures", "dtype", "_name_or_path", "is_heterogeneous", "model_type"}


def causal_types():
    """Every model type with a causal language model."""
    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type):
    """A config of that type, shrunk by the rules."""
    return _shrunk(CONFIG_MAPPING[model_type])


def _shrunk(kind):
    stock = kind()
    own = copy.deepcopy(OWN.get(kind.model_type, {}))
    fields = {}
    stored = next((getattr(stock, name) for name in ("num_hidden_layers", "n_layer") if hasattr(stock, name)), None)
    blocks = own.get("num_hidden_layers", BLOCKS)
    for name, value in stock.to_dict().items():
        if name in (kind.sub_configs or {}) and getattr(stock, name) is not None:
            fields[name] = _shrunk(type(getattr(stock, name))).to_dict()
        elif name not in SKIPPED and name not in (kind.sub_configs or {}):
            fields[name] = _field(name, value, stored, blocks)
    fields |= own
    return kind(**{name: value for name, value in fields.items() if name not in own or value is not None})


def _field(name, value, stored, blocks):
    if name in SPECIAL:
        return SPECIAL[name]
    if name.endswith(("token_id", "token_index")):
        return VOCAB - 6 if isinstance(value, int) and value >= VOCAB else value
    if isinstance(value, list) and isinstance(stored, int) and stored > BLOCKS and len(value) == stored:
        kinds = list(dict.fromkeys(map(str, value)))
        return (kinds + [value[-1]] * blocks)[:blocks] if all(isinstance(v, str) for v in value) else value[:blocks]
    if isinstance(value, int) and not isinstance(value, bool):
        return next((size for rule, size in RULES if size is not None and re.fullmatch(rule, name)), value)
    return value


def tiny_decoder(model_type, auto=AutoModelForCausalLM):
    """A random model of that type in evaluation mode; raises where none can be built."""
    config = tiny_config(model_type)
    with torch.device("meta"):
        size = sum(value.numel() for value in auto.from_config(config).parameters())
    assert size < 15e6, f"{model_type} stays at {size / 1e6:.0f}M parameters"
    torch.manual_seed(0)
    model = auto.from_config(config, dtype=torch.float32).eval()
    for name, value in model.named_parameters():
        if value.is_floating_point() and not name.endswith(("A_log", ".D")) and "dt_bias" not in name:
            torch.nn.init.normal_(value, 1.0 if value.dim() < 2 and re.search("norm|ln_", name.lower()) else 0.0, 0.1)
    model.tie_weights()
    return model.requires_grad_(False)


def batch(samples=2, length=16, seed=0):
    """Token ids of no special token."""
    return torch.randint(3, VOCAB - 6, (samples, length), generator=torch.Generator().manual_seed(seed))
