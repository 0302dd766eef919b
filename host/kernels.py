"""The GPU kernel's text, with its core in the part of C that CUDA and a C++ compiler share.

``CORE`` computes one element: one segment's sum in one column, and what happens to it. The CUDA
kernel runs one thread for each; a test compiles the same text with a C++ compiler and compares
bits with the golden model where there is no GPU. TC_ADD, TC_SUB and TC_MUL are single roundings:
intrinsics that the compiler never contracts on a GPU, plain operators elsewhere (which then need
``-ffp-contract=off``).
"""

__all__ = ["CORE", "CUDA_OPTIONS", "CUDA_PROLOGUE", "HOST_PROLOGUE", "cuda_source"]

#: What the contract needs of the compiler: nothing contracted, subnormals kept.
CUDA_OPTIONS = ("-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true")

CUDA_PROLOGUE = """
#define TC_FUNCTION static __device__ __forceinline__
#define TC_UNROLL _Pragma("unroll")
#define TC_ADD(a, b) __fadd_rn((a), (b))
#define TC_SUB(a, b) __fsub_rn((a), (b))
#define TC_MUL(a, b) __fmul_rn((a), (b))
#define TC_NAN __int_as_float(0x7fc00000)
"""

HOST_PROLOGUE = """
#include <cstring>
#define TC_FUNCTION static inline
#define TC_UNROLL
#define TC_ADD(a, b) ((a) + (b))
#define TC_SUB(a, b) ((a) - (b))
#define TC_MUL(a, b) ((a) * (b))
static inline float tc_nan() {
    unsigned bits = 0x7fc00000u;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
#define TC_NAN tc_nan()
"""

CORE = """
typedef long long tc_int;

struct tc_pass {
    const float *src;        // source rows
    const tc_int *indices;   // source row of each lookup; null: lookup i reads row i
    const tc_int *offsets;   // segments; null: each lookup its own
    const float *weights;    // factor of each lookup, or null
    const float *scales;     // factor of each sum, or null
    const tc_int *rows;      // target row of each segment; null: segment s goes to row s
    float *dst;              // target rows
    tc_int src_stride;       // elements from one row to the next
    tc_int dst_stride;
    tc_int n_segments;
    tc_int dim;              // columns
    int sgd;                 // 0: overwrite, 1: w <- w - lr * g
    float lr;
};

// A NaN that arithmetic returns is the one NaN of the contract.
TC_FUNCTION float tc_canonical(float x) { return x != x ? TC_NAN : x; }

// Eight partial sums, then an adjacent pairwise tree; see docs on numerics.
TC_FUNCTION float tc_segment_sum(const tc_pass &p, tc_int segment, tc_int column) {
    const tc_int begin = p.offsets ? p.offsets[segment] : segment;
    const tc_int end = p.offsets ? p.offsets[segment + 1] : segment + 1;
    const tc_int n = end - begin;
    if (n == 0) return 0.0f;
    float sums[8];
    TC_UNROLL
    for (int k = 0; k < 8; ++k) sums[k] = 0.0f;
    for (tc_int base = 0; base < n; base += 8) {
        TC_UNROLL
        for (int k = 0; k < 8; ++k) {
            if (base + k < n) {
                const tc_int lookup = begin + base + k;
                const tc_int row = p.indices ? p.indices[lookup] : lookup;
                float x = p.src[row * p.src_stride + column];
                if (p.weights) x = TC_MUL(p.weights[lookup], x);
                // The first row of a partial sum is taken as it is: -0 + 0 would be +0.
                sums[k] = base == 0 ? x : TC_ADD(sums[k], x);
            }
        }
    }
    TC_UNROLL
    for (int distance = 1; distance < 8; distance *= 2) {
        TC_UNROLL
        for (int k = 0; k < 8; k += 2 * distance) {
            if (k + distance < n) sums[k] = TC_ADD(sums[k], sums[k + distance]);
        }
    }
    // One row alone is a copy, bit for bit.
    return n == 1 && !p.weights ? sums[0] : tc_canonical(sums[0]);
}

TC_FUNCTION void tc_element(const tc_pass &p, tc_int number) {
    const tc_int segment = number / p.dim, column = number % p.dim;
    float value = tc_segment_sum(p, segment, column);
    if (p.scales) value = tc_canonical(TC_MUL(value, p.scales[segment]));
    const tc_int row = p.rows ? p.rows[segment] : segment;
    float *target = p.dst + row * p.dst_stride + column;
    *target = p.sgd ? tc_canonical(TC_SUB(*target, TC_MUL(p.lr, value))) : value;
}
"""

_CUDA_KERNEL = """
extern "C" __global__ void tc_gather_scatter(
        const float *src, const tc_int *indices, const tc_int *offsets, const float *weights,
        const float *scales, const tc_int *rows, float *dst, tc_int src_stride, tc_int dst_stride,
        tc_int n_segments, tc_int dim, int sgd, float lr) {
    const tc_pass pass = {src, indices, offsets, weights, scales, rows, dst, src_stride,
                          dst_stride, n_segments, dim, sgd, lr};
    const tc_int count = n_segments * dim, step = (tc_int)gridDim.x * blockDim.x;
    for (tc_int n = (tc_int)blockIdx.x * blockDim.x + threadIdx.x; n < count; n += step)
        tc_element(pass, n);
}
"""


def cuda_source():
    """Return the text of the CUDA module with the kernel ``tc_gather_scatter``."""
    return CUDA_PROLOGUE + CORE + _CUDA_KERNEL
