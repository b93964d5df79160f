"""Tiny configurations of any architecture of transformers: its own defaults, shrunk.

Sizes are shrunk by the names of their keys, which transformers has kept alike across a few hundred architectures
(`_SHRINK`); what that gets wrong stands in `_OVERRIDES`, by model type. Keys that a class derives from others are left
to
it. Where the defaults have layers of several kinds, one of each kind is kept, so that all of an architecture's code
runs.
"""

import re
from typing import Any

from transformers import CONFIG_MAPPING

_VOCABULARY = 64
_POSITIONS = 128

_SHRINK: list[tuple[str, int]] = [
    # The first pattern that matches a whole key decides.
    (r"(.*_)?(linear_num_key_heads|linear_num_value_heads)", 2),
    (r"linear_(key|value)_head_dim", 16),
    (r"mamba_(n_heads|num_heads)|n_mamba_heads", 8),
    (r"mamba_(d_head|head_dim|headdim)", 16),
    (r"mamba_d_ssm", 128),
    (r"(mamba_d_state|state_size|ssm_state_size|mamba_ssm_state_size)", 16),
    (r"mamba_n_groups|n_groups|mamba_ngroups", 1),
    (r"(text_|decoder_|encoder_)?vocab_size(_per_layer_input)?|entity_vocab_size", _VOCABULARY),
    ((r"max_position_embeddings|n_positions|n_ctx|max_sequence_length|max_seq_len|seq_length|max_target_positions"
      r"|max_source_positions|context_length|max_context_length|original_max_position_embeddings"), _POSITIONS),
    (r"(.*_)?(num_key_value_heads|num_kv_heads|n_kv_heads|kv_n_heads|num_key_value_groups)", 2),
    (r"(.*_)?(num_attention_heads|num_heads|n_heads?|attention_heads)", 4),
    ((r"(num_hidden_layers|n_layers?|num_layers|(en|de)coder_layers|num_encoder_layers|num_decoder_layers|depth"
      r"|num_blocks|n_blocks)"), 2),
    (r"num_nextn_predict_layers|num_mtp_layers|mtp_num_hidden_layers|num_kv_shared_layers", 0),
    ((r"hidden_size|d_model|n_embd|dim|emb_dim|embedding_size|embed_dim|word_embed_proj_dim|hidden_dim"
      r"|attention_hidden_size|decoder_hidden_size|cross_attention_hidden_size|input_embedding_size"
      r"|output_embedding_size|backbone_hidden_size|mamba_expand_dim"), 64),
    (r"(.*_)?(intermediate_size|ffn_dim|n_inner|d_ff|ffn_hidden_size|mlp_dim|dim_ff|inner_dim|lru_width)", 64),
    (r"(.*_)?(moe_intermediate_size|expert_dim|expert_hidden_size|expert_ffn_hidden_size)", 32),
    (r"global_head_dim|(attention_|mha_|swa_)?(head_dim|head_size)|d_kv|attention_head_size", 16),
    (r"q_lora_rank|kv_lora_rank|o_lora_rank", 32),
    (r"qk_nope_head_dim|qk_rope_head_dim|(.*_)?v_head_dim|index_head_dim", 16),
    (r"qk_head_dim", 32),
    (r"index_n_heads|index_num_heads", 4),
    (r"index_topk", 8),
    (r"(num_(local_|routed_)?experts|n_routed_experts|moe_num_experts|num_moe_experts|num_total_experts)", 4),
    ((r"(num_experts_per_tok(en)?|moe_k|top_k_experts|moe_topk|num_selected_experts|num_activated_experts"
      r"|moe_num_active_experts|moe_top_k|experts_per_token|top_k)"), 2),
    (r"n_shared_experts|num_shared_experts", 1),
    (r"n_group|topk_group|num_expert_groups|num_expert_group", 1),
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index|dense_layers", 1),
    (r"mamba_dt_rank|time_step_rank|adapter_rank|d_rel|loop_gate_rank|laurel_rank", 8),
    (r"unpadded_vocab_size", _VOCABULARY),
    (r"rotary_dim", 8),
    (r"zero_expert_num", 2),
    (r"sliding_window(_size)?|attention_window(_size)?|window_size|attention_chunk_size|local_window_size", 16),
    (r"(mamba_)?chunk_size|mamba_chunk_size|chunk_size_feed_forward_", 16),
    (r"image_size|input_size", 32),
    (r"patch_size", 16),
    (r"hidden_size_per_layer_input", 16),
    (r"projection_dim|out_hidden_size|vision_output_dim", 64),
]  # fmt: skip

_DERIVED = (
    "layer_types", "mlp_layer_types", "layers_block_type", "block_types", "_block_types", "layer_type_list",
    "no_rope_layers", "no_rope_layer_interval_", "attn_layer_indices", "rope_parameters", "rope_scaling",
    "attention_types", "attention_layers", "full_attn_idxs", "moe_layers", "hybrid_layer_ids",
    "compress_ratios", "mamba_layer_types",
)  # fmt: skip
"""Keys that a configuration derives from others where they are not given."""

_SPECIAL = re.compile(r"(.*_)?(token_id|token_index|token_ids|_id)$|image_token|sep_token_id|(.*_)?start_token")

_DROP = object()

_GROUPED = (
    ("num_attention_heads", "num_key_value_heads"),
    ("n_heads", "n_kv_heads"),
    ("swa_num_attention_heads", "swa_num_key_value_heads"),
)
"""Heads that share keys and values only where the default says so."""

_DOTS3 = {
    "num_key_value_heads": 4, "head_dim": 32, "per_layer_config": _DROP, "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4, "swa_q_lora_rank": 32, "swa_kv_lora_rank": 32, "swa_head_dim": 32,
    "swa_qk_nope_head_dim": 16, "swa_v_head_dim": 16, "swa_qk_rope_head_dim": 16,
}  # fmt: skip
_ASSISTANT = {
    "text_config.hidden_size_per_layer_input": 0, "text_config.vocab_size_per_layer_input": 0,
    "text_config.num_kv_shared_layers": 2, "text_config.num_hidden_layers": 2,
    "text_config.layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
_QSA = {
    "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8,
    "indexer_compress_ratio": 4,
}  # fmt: skip
_MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}

_OVERRIDES: dict[str, dict[str, Any]] = {
    "blt": {"encoder_hash_byte_group_vocab": 64, "encoder_config.hidden_size_global": 64, "patch_size": 4,
            "decoder_config.hidden_size_global": 64, "vocab_size": 260, "encoder_config.vocab_size": 260,
            "decoder_config.vocab_size": 260, "patcher_config.vocab_size": 260},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _MROPE}, "layer_types": _DROP},
    "dbrx": {"attn_config.rope_theta": 1e4, "attn_config.clip_qkv": 8},
    "falcon_h1": {"mamba_d_head": 16},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "qwen4_exp": {f"text_config.{key}": value for key, value in _QSA.items()},
    "qwen4_exp_text": _QSA,
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "dots3_note_text": _DOTS3,
    "dots3_note": {**{f"text_config.{key}": value for key, value in _DOTS3.items()},
                   "vision_config.adapter_in_dim": 64, "vision_config.adapter_out_dim": 64,
                   "audio_config.adapter_input_size": 64, "audio_config.adapter_out_dim": 64},
    "emu3": {"vocabulary_map": {"<image>": 50, "<|extra_200|>": 51, "<|visual token 000000|>": 52},
             "vq_config.base_channels": 32, "vq_config.codebook_size": 16, "vq_config.embed_dim": 4},
    "gemma4_assistant": _ASSISTANT,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "attention_layers": ["global", "local"]},
    "granitemoehybrid": {"num_key_value_heads": 2},
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2},
    "inkling2_loop_text": {"num_hidden_layers": 4, "layer_types": _DROP, "loop_layer_index_start": 1,
                           "loop_layer_index_end": 3, "loop_num_passes": 2, "n_layers_per_attn_res_block": 1},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 32},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {"is_decoder": True, "attn_layers": ["local", "lsh"], "num_hidden_layers": 2,
                 "axial_pos_embds": False, "lsh_attn_chunk_length": 16, "local_attn_chunk_length": 16,
                 "num_buckets": 4, "feed_forward_size": 64, "hash_seed": 0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2,
              "attention_hidden_size": 128, "attention_head_dim": 32, "n_mamba_heads": 2},
    "zamba2": {"attention_hidden_size": 128, "attention_head_dim": 32},
}  # fmt: skip
"""Per `model_type`: keys that the generic shrinking gets wrong; `sub.key` reaches into a sub-configuration, and a
value of `_DROP` leaves the key to the class's own default."""


def shrink(cls: type[Any], model_type: str, prefix: str = "", *, cover: bool = True) -> dict[str, Any]:
    """Keyword arguments that make a tiny configuration of this class.

    Args:
        prefix: where in the outer configuration this one stands, with a dot behind.
        cover: a layer of each kind that the default has, instead of two layers of the kind that two have.
    """
    try:
        default = cls()
        own: dict[str, Any] = default.to_dict()
    except Exception:  # noqa: BLE001 - some defaults are refused by their own class
        default, own = None, {}
    subs = dict(getattr(cls, "sub_configs", {}) or {})
    left = {*subs, *_DERIVED, "model_type", "transformers_version", "architectures", "dtype"}
    keywords = {
        key: small for key, value in own.items() if key not in left and (small := _small(key, value)) is not None
    }
    for heads, grouped in _GROUPED:
        if own.get(heads) is not None and own.get(heads) == own.get(grouped):
            keywords[grouped] = keywords[heads]
    if cover:
        keywords |= _one_of_each(own)
    for key in subs:
        inner = getattr(default, key, None)
        spec: Any = getattr(cls, "sub_configs_defaults", {}).get(key) if inner is None else None
        if inner is None and (spec is None or key != "text_config"):
            continue
        sub = type(inner) if inner is not None else CONFIG_MAPPING[spec.model_type]
        keywords[key] = shrink(sub, model_type, f"{prefix}{key}.", cover=cover)
        if getattr(sub, "model_type", ""):
            keywords[key]["model_type"] = sub.model_type
    for key, value in (("pad_token_id", 0), ("eos_token_id", 1), ("bos_token_id", 2)):
        if key in own:
            keywords[key] = value
    for key, value in _OVERRIDES.get(model_type, {}).items():
        where, dot, name = key.rpartition(".")
        if where + dot == prefix:
            keywords[name] = value
    return {key: value for key, value in keywords.items() if value is not _DROP}


def _small(key: str, value: Any) -> Any:
    """What a key's default becomes; None: it stays."""
    if isinstance(value, bool):
        return None
    small = _size(key)
    if small is not None:
        if isinstance(value, list | tuple):
            whole = bool(value) and all(isinstance(one, int) for one in value)
            return [small] * min(2, len(value)) if whole else None
        if isinstance(value, int | float):
            return min(int(value), small)
        return small if value is None and "head_dim" in key else None
    if not _SPECIAL.fullmatch(key):
        return None
    if isinstance(value, int) and value >= _VOCABULARY:
        return _special(key)
    if isinstance(value, list | tuple):
        return [min(int(one), _VOCABULARY - 1) for one in value]
    return None


def _size(key: str) -> int | None:
    return next((new for pattern, new in _SHRINK if re.fullmatch(pattern, key)), None)


def _one_of_each(own: dict[str, Any]) -> dict[str, Any]:
    """The first layer of each kind, where lists say each layer's kind."""
    counted = [key for key in ("num_hidden_layers", "n_layer", "num_layers") if own.get(key)]
    if not counted:
        return {}
    count = own[counted[0]]
    kinds = {
        key: value for key, value in own.items()
        if isinstance(value, list | tuple) and len(value) == count and count > 3
    }  # fmt: skip
    if not kinds:
        return {}
    chosen: dict[str, int] = {}
    for index, kind in enumerate(zip(*kinds.values(), strict=True)):
        chosen.setdefault(str(kind), index)
    indices = sorted(chosen.values())[:6]
    if len(indices) < 2:
        indices = [0, 1]
    told = {
        key: [size] * len(indices) if (size := _size(key)) else [value[index] for index in indices]
        for key, value in kinds.items()
    }
    return {**told, counted[0]: len(indices)}


def _special(key: str) -> int:
    """An id of its own among the last ones, which no row holds."""
    return _VOCABULARY - 2 - sum(map(ord, key)) % 12


def tiny_config(model_type: str) -> Any:
    """A configuration of this type; with a layer of each kind where the class takes that."""
    cls = CONFIG_MAPPING[model_type]
    try:
        return cls(**shrink(cls, model_type))
    except Exception:  # noqa: BLE001 - of any class's own checks
        return cls(**shrink(cls, model_type, cover=False))
