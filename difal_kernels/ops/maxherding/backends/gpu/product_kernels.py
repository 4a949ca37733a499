"""The one product of the GPU backends: inner products on tensor cores, and the kernel function of them in registers.

`fill` writes kernel values, of a square of all points and its mirror image or of any rows and columns; `repair` puts
float64 values where an estimate would be no use. No inner product reaches memory.
"""

import triton
import triton.language as tl

from difal_kernels.ops._triton import kernel

from .arithmetic import COSINE, UNCERTAIN, address_of, error_model, exact_values, value_of

PAIRS = tl.constexpr(16)  # entries that float64 takes together
FAR = tl.constexpr(1 << 30)  # added to an index: beyond every other, and still 32 bits


@triton.jit
def multiply(own, theirs, sums, WIDEN: tl.constexpr):
    """sums and the products of what the two point to. WIDEN: the interpreter knows no products of bfloat16."""
    x = tl.load(own)
    y = tl.load(theirs)
    if WIDEN:
        x = x.to(tl.float32)
        y = y.to(tl.float32)
    return tl.dot(x, tl.trans(y), sums)


@triton.jit
def inner_products(
    own, theirs, width, SPLIT: tl.constexpr, CHUNK: tl.constexpr, STEP: tl.constexpr, SIDE: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """<x_i, y_j>, (SIDE, SIDE) float32, given the first STEP numbers of rows of `width` numbers.

    A tensor core sums the products of CHUNK numbers from zero, then they go to a float32 sum: the longer its sums, the
    more it may lose. SPLIT: a number is the sum of two of bfloat16, whose second half is `width` further; of their four
    products the least is left out. CHUNK takes several dots: of a single one the compiler would make one long sum.
    """
    tl.static_assert(CHUNK > STEP)
    total = tl.zeros([SIDE, SIDE], tl.float32)
    for d in range(0, width, CHUNK):
        part = tl.zeros([SIDE, SIDE], tl.float32)
        for k in tl.static_range(0, CHUNK, STEP):
            if SPLIT:
                part = multiply(own + d + k, theirs + width + d + k, part, WIDEN)
                part = multiply(own + width + d + k, theirs + d + k, part, WIDEN)
            part = multiply(own + d + k, theirs + d + k, part, WIDEN)
        total += part
    return total


@kernel
def fill(
    a, b, out, stride: tl.int64, units: tl.int64, row_points, column_points, row_end: tl.int64, column_end: tl.int64,
    sq_norms_a, sq_norms_b, norms_at, model, unsure, same: tl.int64, mirrored: tl.int64, KIND: tl.constexpr,
    SPLIT: tl.constexpr, CHUNK: tl.constexpr, STEP: tl.constexpr, SIDE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """One tile: the kernel between rows `row_points` of a and `column_points` of b, which may be UNCERTAIN.

    same: b is a, and the kernel between a point and itself is known. mirrored: column c is row c, so that only entries
    on and left of the diagonal are made, and each is stored twice. `unsure` tells which tiles have UNCERTAIN ones.
    """
    # Tiles one below the other run together, and share what the L2 cache holds.
    row_tile = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    column_tile = tl.program_id(1).to(tl.int64)
    if (row_tile * SIDE < row_end) & ((mirrored == 0) | (column_tile <= row_tile)):
        lanes = tl.arange(0, SIDE)
        rows = row_tile * SIDE + lanes
        columns = column_tile * SIDE + lanes
        i = tl.load(row_points + rows, mask=rows < row_end, other=0)
        j = tl.load(column_points + columns, mask=columns < column_end, other=0)
        width = units * CHUNK
        apart = width * (2 if SPLIT else 1)
        numbers = tl.arange(0, STEP)
        total = inner_products(
            a + (i * apart)[:, None] + numbers[None, :], b + (j * apart)[:, None] + numbers[None, :], width,
            SPLIT, CHUNK, STEP, SIDE, WIDEN,
        )  # fmt: skip
        sq_dist_rel_err, _, absolute, tolerance, product = error_model(model)
        both = tl.load(sq_norms_a + i)[:, None] + tl.load(sq_norms_b + j)[None, :]
        k = value_of(total * product, both, sq_dist_rel_err, absolute, tolerance, KIND)
        one = tl.full([SIDE], 1.0, tl.float32)
        if KIND == COSINE:  # of no direction: like nothing, itself included
            norms = address_of(norms_at, tl.float64)
            one = tl.where(tl.load(norms + i) > 0, 1.0, 0.0)
        k = tl.where((i + (1 - same) * FAR)[:, None] == j[None, :], one[:, None], k)
        inside = (rows < row_end)[:, None] & (columns < column_end)[None, :]
        inside = inside & ((rows + (1 - mirrored) * FAR)[:, None] >= columns[None, :])
        if tl.max(tl.max((inside & (k == UNCERTAIN)).to(tl.int32), axis=1), axis=0) > 0:
            tl.store(unsure + row_tile * tl.num_programs(1) + column_tile, 1)
        tl.store((out + rows * stride + column_tile * SIDE)[:, None] + lanes[None, :], k, mask=inside)
        if mirrored != 0:
            tl.store(
                (out + columns * stride + row_tile * SIDE)[:, None] + lanes[None, :], tl.trans(k),
                mask=tl.trans(inside),
            )  # fmt: skip


@kernel
def repair(
    out, stride: tl.int64, row_points, column_points, row_end: tl.int64, column_end: tl.int64, unsure, tiles: tl.int64,
    column_tiles: tl.int64, features_at, feature_stride: tl.int64, dimension: tl.int64, norms_at, reals,
    mirrored: tl.int64, KIND: tl.constexpr, DTYPE: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Float64 values in the place of UNCERTAIN ones, of points of one pool."""
    features = address_of(features_at, DTYPE)
    norms = address_of(norms_at, tl.float64)
    height = SIDE // tl.num_programs(1)
    for tile in range(tl.program_id(0).to(tl.int64), tiles, tl.num_programs(0)):
        if tl.load(unsure + tile) != 0:
            first = tile // column_tiles * SIDE + tl.program_id(1) * height
            left = tile % column_tiles * SIDE
            for row in range(first, tl.minimum(first + height, row_end)):
                i = tl.load(row_points + row)
                for column in range(left, tl.minimum(left + SIDE, column_end), PAIRS):
                    c = column + tl.arange(0, PAIRS).to(tl.int64)
                    there = (c < column_end) & (c <= row + (1 - mirrored) * FAR)
                    wanted = there & (tl.load(out + row * stride + c, mask=there, other=0.0) == UNCERTAIN)
                    if tl.max(wanted.to(tl.int32), axis=0) > 0:
                        j = tl.load(column_points + c, mask=wanted, other=0)
                        value = exact_values(
                            features, feature_stride, dimension, norms, j * 0 + i, features, j, norms, wanted,
                            tl.load(reals), KIND,
                        ).to(tl.float32)  # fmt: skip
                        tl.store(out + row * stride + c, value, mask=wanted)
                        if mirrored != 0:
                            tl.store(out + c * stride + row, value, mask=wanted)
