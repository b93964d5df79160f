"""The Triton kernels of ``packed_attention.py``, whose docstring says how they share out the work.

A tile's rows are pairs of a query token and a head: row r stands for head ``r // TOKENS`` and token
``r % TOKENS`` of the tile, so that neighbouring rows are neighbouring tokens, whose lse and delta
lie side by side. Logits are kept in units of log 2, so that every exponential is one instruction.

Offsets inside a tile are int32; those of its first token and head are int64, since they can be
large.
"""

from __future__ import annotations

from .backend import jit, tl


@jit()
def _logits(products, inner, SOFTCAP: tl.constexpr):
    """What gives the logits in units of log 2 when it is multiplied by `factor`, and its derivative
    but for the scale; `_factors` in the other module makes `inner` and `factor`.

    The multiplication is left to the caller, because there it is part of a fused multiply-add.
    """
    slope = 1.0
    if SOFTCAP:
        # With the negative sign the exponential never overflows.
        products *= inner
        decay = tl.exp2(-tl.abs(products))
        share = 1.0 / (1.0 + decay)
        tanh = (1.0 - decay) * share
        products = tl.where(products < 0, -tanh, tanh)
        slope = 4.0 * decay * share * share
    return products, slope


@jit()
def _load_tile(
    ptr,  # at the first token (and head) of the tile
    rows,  # offset of each row, int32
    cols,
    inside,  # whether to load a row; not touched without MASKED
    SIZE: tl.constexpr,
    MASKED: tl.constexpr,
):
    ptrs = ptr + rows[:, None] + cols[None, :]
    # A mask that is always true would still be computed for each load.
    if MASKED:
        mask = inside[:, None]
        if cols.shape[0] != SIZE:
            mask = mask & (cols < SIZE)[None, :]
        tile = tl.load(ptrs, mask=mask, other=0.0)
    elif cols.shape[0] != SIZE:
        tile = tl.load(ptrs, mask=(cols < SIZE)[None, :], other=0.0)
    else:
        tile = tl.load(ptrs)
    return tile


@jit()
def _key_blocks(
    starts_ptr, begin, n_tokens, window, TOKENS: tl.constexpr, KEYS: tl.constexpr
):  # fmt: skip
    """What the queries of the tile from `begin` on see: the first key; how many blocks of keys need
    a mask; how many of these lie left of those that need none; how many need none."""
    last = tl.minimum(begin + TOKENS, n_tokens) - 1
    seen_by_any = tl.maximum(tl.load(starts_ptr + begin), begin - window + 1)
    seen_by_all = tl.maximum(tl.load(starts_ptr + last), last - window + 1)
    blocks = tl.cdiv(last + 1 - seen_by_any, KEYS)
    left = tl.minimum(tl.cdiv(seen_by_all - seen_by_any, KEYS), blocks)
    whole = tl.maximum((begin + 1 - seen_by_any) // KEYS - left, 0)
    return seen_by_any, blocks - whole, left, whole


@jit()
def _forward_block(
    acc,
    total,
    top,
    q,
    k_ptr,
    v_ptr,
    k_token,
    v_token,
    key,  # of the block's first token
    query,
    first,  # key that each query sees
    n_tokens,
    inner,
    factor,
    SOFTCAP: tl.constexpr,
    MASKED: tl.constexpr,
    SIZE: tl.constexpr,
    KEYS: tl.constexpr,
    COLS: tl.constexpr,
):
    """One step of the online softmax."""
    cols = tl.arange(0, COLS)
    ahead = tl.arange(0, KEYS)
    inside = key + ahead < n_tokens
    start = key.to(tl.int64)
    k = _load_tile(k_ptr + start * k_token, ahead * k_token, cols, inside, SIZE, MASKED)
    products = tl.dot(q, tl.trans(k), input_precision="ieee")
    logits, _ = _logits(products, inner, SOFTCAP)
    if MASKED:
        keys = (key + ahead)[None, :]
        visible = (keys >= first[:, None]) & (keys <= query[:, None])
        logits = tl.where(visible, logits, float("-inf"))
    higher = tl.maximum(top, tl.max(logits, axis=1) * factor)
    # A row may have seen no key yet: -inf minus -inf would be NaN.
    base = tl.where(higher == float("-inf"), 0.0, higher) if MASKED else higher
    weights = tl.exp2(logits * factor - base[:, None])
    fade = tl.exp2(top - base)
    total = total * fade + tl.sum(weights, axis=1)
    acc = acc * fade[:, None]
    v = _load_tile(v_ptr + start * v_token, ahead * v_token, cols, inside, SIZE, MASKED)
    acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee")
    return acc, total, higher


@jit(do_not_specialize=["n_tokens", "window"])
def _attention_forward_kernel(
    q_ptr,  # [n_tokens, n_heads, SIZE], tokens q_token and heads q_head apart; so all the others
    k_ptr,  # [n_tokens, n_heads // GROUP, SIZE]
    v_ptr,  # like k
    starts_ptr,  # [n_tokens], int32
    out_ptr,  # like q
    lse_ptr,  # [n_heads, n_tokens], fp32, in units of log 2
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    out_token,
    out_head,
    n_tokens,
    n_heads,
    window,
    inner,
    factor,
    SOFTCAP: tl.constexpr,
    SIZE: tl.constexpr,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
    KEYS: tl.constexpr,
    COLS: tl.constexpr,
):
    sets = n_heads // HEADS
    tile = tl.cdiv(n_tokens, TOKENS) - 1 - tl.program_id(0) // sets
    head = (tl.program_id(0) % sets).to(tl.int64) * HEADS
    begin = tile * TOKENS
    inner, factor = tl.cast(inner, tl.float32), tl.cast(factor, tl.float32)

    rows = tl.arange(0, HEADS * TOKENS)
    cols = tl.arange(0, COLS)
    ahead = rows % TOKENS
    query = begin + ahead
    inside = query < n_tokens
    first = tl.load(starts_ptr + query, mask=inside, other=0)
    # Rows past the end see every key, and are not stored: none divides by zero.
    first = tl.where(inside, tl.maximum(first, query - window + 1), 0)
    q_ptr += begin.to(tl.int64) * q_token + head * q_head
    q = _load_tile(q_ptr, ahead * q_token + rows // TOKENS * q_head, cols, inside, SIZE, True)
    k_ptr += head // GROUP * k_head
    v_ptr += head // GROUP * v_head

    acc = tl.zeros([HEADS * TOKENS, COLS], dtype=tl.float32)
    total = tl.zeros([HEADS * TOKENS], dtype=tl.float32)
    top = tl.full([HEADS * TOKENS], float("-inf"), dtype=tl.float32)
    key, masked, left, whole = _key_blocks(starts_ptr, begin, n_tokens, window, TOKENS, KEYS)
    for block in range(whole):
        acc, total, top = _forward_block(
            acc, total, top, q, k_ptr, v_ptr, k_token, v_token, key + (left + block) * KEYS,
            query, first, n_tokens, inner, factor, SOFTCAP, False, SIZE, KEYS, COLS,
        )  # fmt: skip
    for block in range(masked):
        skipped = tl.where(block < left, 0, whole)
        acc, total, top = _forward_block(
            acc, total, top, q, k_ptr, v_ptr, k_token, v_token, key + (skipped + block) * KEYS,
            query, first, n_tokens, inner, factor, SOFTCAP, True, SIZE, KEYS, COLS,
        )  # fmt: skip

    lse_ptrs = lse_ptr + (head + rows // TOKENS) * n_tokens + query
    tl.store(lse_ptrs, top + tl.log2(total), mask=inside)
    out_ptr += begin.to(tl.int64) * out_token + head * out_head
    out_ptrs = out_ptr + (ahead * out_token + rows // TOKENS * out_head)[:, None] + cols[None, :]
    out = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptrs, out, mask=inside[:, None] & (cols < SIZE)[None, :])


@jit()
def _query_gradient_block(
    dq,
    q,
    dout,
    lse,
    delta,
    k_ptr,
    v_ptr,
    k_token,
    v_token,
    key,  # of the block's first token
    query,
    first,  # key that each query sees
    n_tokens,
    inner,
    factor,
    SOFTCAP: tl.constexpr,
    MASKED: tl.constexpr,
    SIZE: tl.constexpr,
    KEYS: tl.constexpr,
    COLS: tl.constexpr,
):
    cols = tl.arange(0, COLS)
    ahead = tl.arange(0, KEYS)
    inside = key + ahead < n_tokens
    start = key.to(tl.int64)
    k = _load_tile(k_ptr + start * k_token, ahead * k_token, cols, inside, SIZE, MASKED)
    v = _load_tile(v_ptr + start * v_token, ahead * v_token, cols, inside, SIZE, MASKED)
    products = tl.dot(q, tl.trans(k), input_precision="ieee")
    dweights = tl.dot(dout, tl.trans(v), input_precision="ieee")
    logits, slope = _logits(products, inner, SOFTCAP)
    dlogits = tl.exp2(logits * factor - lse[:, None]) * (dweights - delta[:, None]) * slope
    if MASKED:
        # After the product: what lies in other documents may have made it infinite or no number.
        keys = (key + ahead)[None, :]
        visible = (keys >= first[:, None]) & (keys <= query[:, None])
        dlogits = tl.where(visible, dlogits, 0.0)
    return tl.dot(dlogits.to(k.dtype), k, dq, input_precision="ieee")


@jit(do_not_specialize=["n_tokens", "window"])
def _attention_query_gradient_kernel(
    dout_ptr,  # [n_tokens, n_heads, SIZE], strides as in the forward kernel
    q_ptr,  # like dout
    k_ptr,  # [n_tokens, n_heads // GROUP, SIZE]
    v_ptr,  # like k
    out_ptr,  # like dout
    lse_ptr,  # [n_heads, n_tokens], fp32
    starts_ptr,  # [n_tokens], int32
    dq_ptr,  # like dout
    delta_ptr,  # [n_heads, n_tokens], fp32: gets each row's dout . out, for the other kernel
    dout_token,
    dout_head,
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    out_token,
    out_head,
    dq_token,
    dq_head,
    n_tokens,
    n_heads,
    window,
    scale,
    inner,
    factor,
    SOFTCAP: tl.constexpr,
    SIZE: tl.constexpr,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
    KEYS: tl.constexpr,
    COLS: tl.constexpr,
):
    sets = n_heads // HEADS
    tile = tl.cdiv(n_tokens, TOKENS) - 1 - tl.program_id(0) // sets
    head = (tl.program_id(0) % sets).to(tl.int64) * HEADS
    begin = tile * TOKENS
    inner, factor = tl.cast(inner, tl.float32), tl.cast(factor, tl.float32)

    rows = tl.arange(0, HEADS * TOKENS)
    cols = tl.arange(0, COLS)
    ahead = rows % TOKENS
    member = rows // TOKENS
    query = begin + ahead
    inside = query < n_tokens
    first = tl.load(starts_ptr + query, mask=inside, other=0)
    first = tl.maximum(first, query - window + 1)
    start = begin.to(tl.int64)
    out_ptr += start * out_token + head * out_head
    dout_ptr += start * dout_token + head * dout_head
    out = _load_tile(out_ptr, ahead * out_token + member * out_head, cols, inside, SIZE, True)
    dout = _load_tile(dout_ptr, ahead * dout_token + member * dout_head, cols, inside, SIZE, True)
    delta = tl.sum(out.to(tl.float32) * dout.to(tl.float32), axis=1)
    statistics = (head + member) * n_tokens + query
    tl.store(delta_ptr + statistics, delta, mask=inside)
    lse = tl.load(lse_ptr + statistics, mask=inside, other=0.0)
    q_ptr += start * q_token + head * q_head
    q = _load_tile(q_ptr, ahead * q_token + member * q_head, cols, inside, SIZE, True)
    k_ptr += head // GROUP * k_head
    v_ptr += head // GROUP * v_head

    dq = tl.zeros([HEADS * TOKENS, COLS], dtype=tl.float32)
    key, masked, left, whole = _key_blocks(starts_ptr, begin, n_tokens, window, TOKENS, KEYS)
    for block in range(whole):
        dq = _query_gradient_block(
            dq, q, dout, lse, delta, k_ptr, v_ptr, k_token, v_token, key + (left + block) * KEYS,
            query, first, n_tokens, inner, factor, SOFTCAP, False, SIZE, KEYS, COLS,
        )  # fmt: skip
    for block in range(masked):
        skipped = tl.where(block < left, 0, whole)
        dq = _query_gradient_block(
            dq, q, dout, lse, delta, k_ptr, v_ptr, k_token, v_token, key + (skipped + block) * KEYS,
            query, first, n_tokens, inner, factor, SOFTCAP, True, SIZE, KEYS, COLS,
        )  # fmt: skip

    dq_ptr += start * dq_token + head * dq_head
    dq_ptrs = dq_ptr + (ahead * dq_token + member * dq_head)[:, None] + cols[None, :]
    dq = (dq * tl.cast(scale, tl.float32)).to(dq_ptr.dtype.element_ty)
    tl.store(dq_ptrs, dq, mask=inside[:, None] & (cols < SIZE)[None, :])


@jit()
def _key_gradient_block(
    dk,
    dv,
    k,
    v,
    dout_ptr,
    q_ptr,
    lse_ptr,
    delta_ptr,
    dout_token,
    dout_head,
    q_token,
    q_head,
    query,  # the block's first token
    keys,
    limit,  # one past the last query that sees each key
    n_tokens,
    inner,
    factor,
    SOFTCAP: tl.constexpr,
    MASKED: tl.constexpr,
    SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Everything here is keys by queries: the transposes then come as left operands of the last two
    products, straight from registers."""
    rows = tl.arange(0, HEADS * TOKENS)
    cols = tl.arange(0, COLS)
    ahead = rows % TOKENS
    member = rows // TOKENS
    queries = query + ahead
    inside = queries < n_tokens
    start = query.to(tl.int64)
    q_ptr += start * q_token
    q = _load_tile(q_ptr, ahead * q_token + member * q_head, cols, inside, SIZE, MASKED)
    dout_ptr += start * dout_token
    dout = _load_tile(dout_ptr, ahead * dout_token + member * dout_head, cols, inside, SIZE, MASKED)
    statistics = member * n_tokens + queries
    lse = tl.load(lse_ptr + statistics, mask=inside, other=0.0)
    delta = tl.load(delta_ptr + statistics, mask=inside, other=0.0)

    products = tl.dot(k, tl.trans(q), input_precision="ieee")
    logits, slope = _logits(products, inner, SOFTCAP)
    weights = tl.exp2(logits * factor - lse[None, :])
    if MASKED:
        visible = (queries[None, :] >= keys[:, None]) & (queries[None, :] < limit[:, None])
        weights = tl.where(visible, weights, 0.0)
    dv = tl.dot(weights.to(dout.dtype), dout, dv, input_precision="ieee")
    dweights = tl.dot(v, tl.trans(dout), input_precision="ieee")
    dlogits = weights * (dweights - delta[None, :]) * slope
    if MASKED:
        # Zero times what another document may hold can be no number.
        dlogits = tl.where(visible, dlogits, 0.0)  # pyright: ignore[reportPossiblyUnboundVariable]
    dk = tl.dot(dlogits.to(q.dtype), q, dk, input_precision="ieee")
    return dk, dv


@jit(do_not_specialize=["n_tokens", "window"])
def _attention_key_gradient_kernel(
    dout_ptr,  # [n_tokens, n_heads, SIZE], strides as in the forward kernel
    q_ptr,  # like dout
    k_ptr,  # [n_tokens, n_heads // GROUP, SIZE]
    v_ptr,  # like k
    lse_ptr,  # [n_heads, n_tokens], fp32
    delta_ptr,  # [n_heads, n_tokens], fp32
    ends_ptr,  # [n_tokens], int32
    dk_ptr,  # like k
    dv_ptr,  # like k
    dout_token,
    dout_head,
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    dk_token,
    dk_head,
    dv_token,
    dv_head,
    n_tokens,
    n_heads,
    window,
    scale,
    inner,
    factor,
    SOFTCAP: tl.constexpr,
    SIZE: tl.constexpr,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
    KEYS: tl.constexpr,
    COLS: tl.constexpr,
):
    kv_heads = n_heads // GROUP
    begin = (tl.program_id(0) // kv_heads) * KEYS
    kv_head = (tl.program_id(0) % kv_heads).to(tl.int64)
    inner, factor = tl.cast(inner, tl.float32), tl.cast(factor, tl.float32)

    ahead = tl.arange(0, KEYS)
    cols = tl.arange(0, COLS)
    keys = begin + ahead
    inside = keys < n_tokens
    limit = tl.load(ends_ptr + keys, mask=inside, other=0)
    limit = tl.minimum(tl.minimum(limit, keys + window), n_tokens)
    start = begin.to(tl.int64)
    k_ptr += start * k_token + kv_head * k_head
    v_ptr += start * v_token + kv_head * v_head
    k = _load_tile(k_ptr, ahead * k_token, cols, inside, SIZE, True)
    v = _load_tile(v_ptr, ahead * v_token, cols, inside, SIZE, True)

    # As in `_key_blocks`: only the blocks from `left` on, `whole` of them, need no mask.
    last = tl.minimum(begin + KEYS, n_tokens) - 1
    end = tl.minimum(tl.load(ends_ptr + last), last + window)
    seeing_all = tl.minimum(tl.load(ends_ptr + begin), begin + window)
    blocks = tl.cdiv(tl.minimum(end, n_tokens) - begin, TOKENS)
    left = tl.minimum(tl.cdiv(last - begin, TOKENS), blocks)
    whole = tl.maximum((tl.minimum(seeing_all, n_tokens) - begin) // TOKENS - left, 0)

    dk = tl.zeros([KEYS, COLS], dtype=tl.float32)
    dv = tl.zeros([KEYS, COLS], dtype=tl.float32)
    for turn in range(GROUP // HEADS):
        head = kv_head * GROUP + turn * HEADS
        dout_heads = dout_ptr + head * dout_head
        q_heads = q_ptr + head * q_head
        lse_heads = lse_ptr + head * n_tokens
        delta_heads = delta_ptr + head * n_tokens
        for block in range(whole):
            dk, dv = _key_gradient_block(
                dk, dv, k, v, dout_heads, q_heads, lse_heads, delta_heads, dout_token, dout_head,
                q_token, q_head, begin + (left + block) * TOKENS, keys, limit, n_tokens,
                inner, factor, SOFTCAP, False, SIZE, HEADS, TOKENS, COLS,
            )  # fmt: skip
        for block in range(blocks - whole):
            skipped = tl.where(block < left, 0, whole)
            dk, dv = _key_gradient_block(
                dk, dv, k, v, dout_heads, q_heads, lse_heads, delta_heads, dout_token, dout_head,
                q_token, q_head, begin + (skipped + block) * TOKENS, keys, limit, n_tokens,
                inner, factor, SOFTCAP, True, SIZE, HEADS, TOKENS, COLS,
            )  # fmt: skip

    mask = inside[:, None] & (cols < SIZE)[None, :]
    dk_ptrs = dk_ptr + start * dk_token + kv_head * dk_head + (ahead * dk_token)[:, None] + cols
    dk = (dk * tl.cast(scale, tl.float32)).to(dk_ptr.dtype.element_ty)
    tl.store(dk_ptrs, dk, mask=mask)
    dv_ptrs = dv_ptr + start * dv_token + kv_head * dv_head + (ahead * dv_token)[:, None] + cols
    tl.store(dv_ptrs, dv.to(dv_ptr.dtype.element_ty), mask=mask)
