"""What a layer's forward leaves behind and its backward takes, in bytes: every tensor that is allocated is known."""

from ..model.layers.decoder import ActivationLevel, LayerParts


def saved_bytes(parts: LayerParts, tokens: int, level: ActivationLevel) -> int:
    """What a layer holds from its forward to its backward, its input included."""
    qkv, o, gate_up, down = parts.groups
    size = qkv.dtype.itemsize
    width = qkv.in_features
    per_token = width * size
    if level != "layer":
        per_token += (qkv.out_features + width) * size + o.input_bytes
        per_token += o.rank * size + 4 * parts.q_heads  # attention's log-sum-exps
        per_token += (gate_up.out_features + down.rank) * size + 8
        if parts.q_norm is not None:
            per_token += (parts.q_heads + parts.kv_heads) * (parts.head_dim * size + 4)
    if level == "kept":
        per_token += qkv.input_bytes + gate_up.input_bytes
        per_token += down.input_bytes if parts.dropout else 0
    per_token += sum(group.in_features for group in parts.groups if group.dropout)  # masks, bool
    return tokens * per_token


def passing_bytes(parts: LayerParts, tokens: int) -> int:
    """The most that one layer's backward needs beside what was saved, its forward's again included."""
    qkv, o, gate_up, down = parts.groups
    tall = gate_up.gradient_bytes + 2 * down.input_bytes
    wide = 2 * (qkv.input_bytes + o.gradient_bytes)
    return tokens * (tall + wide) + max(group.matrix_bytes for group in parts.groups)


def weight_bytes(parts: LayerParts) -> int:
    """A layer's matrices, dequantised."""
    return sum(group.matrix_bytes for group in parts.groups)


def adapter_bytes(parts: LayerParts) -> int:
    """A layer's adapters rounded to the compute dtype, as they are beside weights that are not kept."""
    return parts.qkv.dtype.itemsize * sum(
        g.extra * (g.in_features + g.extra) + g.extra * g.out_features for g in parts.groups
    )
