"""The Triton kernels behind `hypercolumns`. Coordinates, weights, sums and norms are float64, as on every backend."""

import triton
import triton.language as tl

from .._triton import kernel


@triton.jit
def taps(position, size_in, size_out):
    """The two source cells of an output coordinate and the weight of the second (align_corners=False)."""
    source = (position.to(tl.float64) + 0.5) * size_in / size_out.to(tl.float64) - 0.5  # rounded correctly
    source = tl.minimum(tl.maximum(source, 0.0), size_in - 1.0)
    low = source.to(tl.int64)  # of a number that is not negative: its floor
    weight = source - low
    return low, tl.where(weight > 0, low + 1, low), weight


@triton.jit
def wide(v):
    return v if v.dtype == tl.float64 else v.to(tl.float32).to(tl.float64)


@triton.jit
def narrow(v, KIND: tl.constexpr):
    """Float64 to another type, by way of float32 as on the other backends."""
    return v if tl.float64 == KIND else v.to(tl.float32).to(KIND)


@kernel
def gather(
    view,
    points,
    image,
    work,
    squares,
    first: tl.int64,
    width: tl.int64,
    channels: tl.int64,
    height_in: tl.int64,
    width_in: tl.int64,
    image_stride: tl.int64,
    channel_stride: tl.int64,
    row_stride: tl.int64,
    column_stride: tl.int64,
    height: tl.int64,
    width_out: tl.int64,
    BLOCK: tl.constexpr,
):
    """One point's values from one map, to columns `first` on of its row of `work`; their squares are added up."""
    point = tl.program_id(0).to(tl.int64)
    top, bottom, down = taps(tl.load(points + 2 * point), height_in, height)
    left, right, across = taps(tl.load(points + 2 * point + 1), width_in, width_out)
    start = view + tl.load(image + point) * image_stride
    total = tl.zeros((BLOCK,), tl.float64)
    for begin in range(0, channels, BLOCK):
        c = begin + tl.arange(0, BLOCK)
        there = c < channels
        at = start + c * channel_stride
        a = wide(tl.load(at + top * row_stride + left * column_stride, mask=there, other=0.0))
        b = wide(tl.load(at + top * row_stride + right * column_stride, mask=there, other=0.0))
        above = (1 - across) * a + across * b
        a = wide(tl.load(at + bottom * row_stride + left * column_stride, mask=there, other=0.0))
        b = wide(tl.load(at + bottom * row_stride + right * column_stride, mask=there, other=0.0))
        below = (1 - across) * a + across * b
        value = (1 - down) * above + down * below
        total += value * value
        tl.store(work + point * width + first + c, narrow(value, work.dtype.element_ty), mask=there)
    # The only block of this launch that touches this point; launches follow one another.
    tl.store(squares + point, tl.load(squares + point) + tl.sum(total, axis=0))


@kernel
def normalise(work, squares, out, width: tl.int64, NORMALIZE: tl.constexpr, BLOCK: tl.constexpr):
    """One row of `work` to `out`, which may be the same, over its norm; a row of zeros stays."""
    point = tl.program_id(0).to(tl.int64)
    norm = tl.sqrt(tl.load(squares + point))
    scale = 1 / tl.where((norm > 0) & NORMALIZE, norm, 1.0)
    for begin in range(0, width, BLOCK):
        c = begin + tl.arange(0, BLOCK)
        value = wide(tl.load(work + point * width + c, mask=c < width, other=0.0)) * scale
        tl.store(out + point * width + c, narrow(value, out.dtype.element_ty), mask=c < width)
