// The core of the cpu backend: every pass of the engine, and casting, in the numerics contract.
//
// Compiled for one instruction set (host/native.py chooses) without contraction to FMA; every
// thread that computes sets the default floating-point mode for itself, so that a library that has
// set flush-to-zero changes no result. Arguments are checked by the caller.

#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
static int omp_get_num_threads() { return 1; }
#endif

// A function that only prefetches is taken for pure and dropped by GCC 12 unless it is inlined.
#define ALWAYS __attribute__((always_inline))
#define INLINE static inline ALWAYS
#define UNROLL _Pragma("GCC unroll 16")

namespace {

// ---- vectors

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int LONG_VECTORS = 2;   // of one row: eight partial sums of each are 16 of 32 registers
#elif defined(__AVX__)
constexpr int LANES = 8;          // wider vectors would be lowered through memory
constexpr int LONG_VECTORS = 1;
#else
constexpr int LANES = 4;
constexpr int LONG_VECTORS = 1;
#endif

typedef float wide __attribute__((vector_size(4 * LANES)));
typedef float narrow __attribute__((vector_size(16)));

template <class T> INLINE T load(const float *from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

template <class T> INLINE void store(float *to, T value) {
    std::memcpy(to, &value, sizeof value);
}

INLINE float quiet_nan() {
    const uint32_t bits = 0x7fc00000u;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

template <class T> INLINE T splat(float value) {
    if constexpr (sizeof(T) == 4) {
        return value;
    } else {
        return value - T{};   // a broadcast; subtracting +0 keeps -0
    }
}

// The NaN of the contract for every NaN.
template <class T> INLINE T canonical(T x) { return x == x ? x : splat<T>(quiet_nan()); }

// To the second cache: a core can have several times more lines on their way there than to the
// first, whose latency the order of execution hides.
INLINE void prefetch_line(const void *address) { __builtin_prefetch(address, 0, 2); }

INLINE void prefetch_row(const float *row, int64_t bytes) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(row), end = begin + bytes;
    for (uintptr_t line = begin & ~uintptr_t(63); line < end; line += 64)
        prefetch_line(reinterpret_cast<const void *>(line));
}

// What is written in steps of no fixed length: measured a third faster than left to the processor,
// which sees no stream in it.
template <class T> INLINE void prefetch_for_writing(const T *next, int64_t n) {
    for (int64_t byte = 0; byte < n * int64_t(sizeof(T)); byte += 64)
        __builtin_prefetch(reinterpret_cast<const char *>(next) + 1024 + byte, 1, 2);
}

struct DefaultFloats {
    fenv_t before;
    DefaultFloats() { fegetenv(&before), fesetenv(FE_DFL_ENV); }
    ~DefaultFloats() { fesetenv(&before); }
};

// ---- one pass

enum Sink { WRITE = 0, SGD = 1, ROWWISE_ADAGRAD = 2 };

// Integers of either width: 4 or 8 bytes; 0 bytes stand for "entry i is i".
struct Integers {
    const void *base;
    int64_t bytes;
    INLINE int64_t at(const Integers &array, int64_t i) {
        if (array.bytes == 4) return static_cast<const int32_t *>(array.base)[i];
        if (array.bytes == 8) return static_cast<const int64_t *>(array.base)[i];
        return i;
    }
};

}  // namespace

// The same as _Pass in host/native.py. Strides are in elements.
struct tc_pass {
    const float *src;
    Integers indices;        // source row of each lookup
    Integers offsets;        // of the segments
    Integers rows;           // target row of each segment
    const float *weights;    // factor of each lookup, or null
    const float *scales;     // factor of each sum, or null; only with WRITE
    float *dst;
    float *state;            // of the rows of dst, for ROWWISE_ADAGRAD
    int64_t src_stride, dst_stride, n_segments, dim;
    int64_t sink, threads;
    float lr, eps;
};

namespace {

// Bytes of rows on their way: more than a core can have outstanding.
constexpr int64_t BYTES_AHEAD = 24 << 10;
constexpr int64_t TARGETS_AHEAD = 48;
// Rows of lookups are prefetched so many at a time: measured half as fast again as one by one,
// between loads.
constexpr int64_t BURST = 8;

struct Sequence {
    int64_t operator[](int64_t i) const { return i; }
};

// Lookups of a pass, and how far ahead of the work they have been prefetched.
template <class Index, bool WEIGHTED> struct Lookups {
    const float *src;
    Index indices;
    const float *weights;
    int64_t stride, row_bytes, distance, end, ahead;

    template <class T> INLINE T row(const Lookups &l, int64_t lookup, int64_t column) {
        T x = load<T>(l.src + static_cast<int64_t>(l.indices[lookup]) * l.stride + column);
        if (WEIGHTED) x = x * splat<T>(l.weights[lookup]);
        return x;
    }

    // Prefetch so that what lies up to `distance` lookups behind `lookup` is on its way.
    INLINE void prefetch(Lookups &l, int64_t lookup) {
        const int64_t until = std::min(lookup + l.distance, l.end);
        if (until - l.ahead < BURST && until < l.end) return;
        for (; l.ahead < until; ++l.ahead) {
            const float *row = l.src + static_cast<int64_t>(l.indices[l.ahead]) * l.stride;
            prefetch_row(row, l.row_bytes);
        }
    }
};

// Node of the adjacent pairwise tree over rows FIRST to FIRST + SPAN - 1 of a segment of N <= 8.
template <class T, int VECTORS, int FIRST, int SPAN, int N, class L>
INLINE void tree_of_rows(const L &lookups, int64_t begin, int64_t column, T *sum) {
    if constexpr (SPAN == 1) {
        UNROLL for (int v = 0; v < VECTORS; ++v)
            sum[v] = L::template row<T>(lookups, begin + FIRST,
                                        column + v * int64_t(sizeof(T) / 4));
    } else {
        tree_of_rows<T, VECTORS, FIRST, SPAN / 2, N>(lookups, begin, column, sum);
        if constexpr (FIRST + SPAN / 2 < N) {
            T right[VECTORS];
            tree_of_rows<T, VECTORS, FIRST + SPAN / 2, SPAN / 2, N>(lookups, begin, column, right);
            UNROLL for (int v = 0; v < VECTORS; ++v) sum[v] = sum[v] + right[v];
        }
    }
}

template <class T, int VECTORS, class L>
INLINE void sum_short(const L &lookups, int64_t begin, int64_t n, int64_t column, T *sum) {
    switch (n) {
        case 1: return tree_of_rows<T, VECTORS, 0, 8, 1>(lookups, begin, column, sum);
        case 2: return tree_of_rows<T, VECTORS, 0, 8, 2>(lookups, begin, column, sum);
        case 3: return tree_of_rows<T, VECTORS, 0, 8, 3>(lookups, begin, column, sum);
        case 4: return tree_of_rows<T, VECTORS, 0, 8, 4>(lookups, begin, column, sum);
        case 5: return tree_of_rows<T, VECTORS, 0, 8, 5>(lookups, begin, column, sum);
        case 6: return tree_of_rows<T, VECTORS, 0, 8, 6>(lookups, begin, column, sum);
        case 7: return tree_of_rows<T, VECTORS, 0, 8, 7>(lookups, begin, column, sum);
        default: return tree_of_rows<T, VECTORS, 0, 8, 8>(lookups, begin, column, sum);
    }
}

// A segment of more than eight rows: partial sums in registers, prefetching between blocks of rows.
template <class T, int VECTORS, bool PREFETCH, class L>
INLINE void sum_long(L &lookups, int64_t begin, int64_t n, int64_t column, T *sum) {
    constexpr int64_t WIDTH = sizeof(T) / 4;
    T partial[8][VECTORS];
    UNROLL for (int k = 0; k < 8; ++k)
        UNROLL for (int v = 0; v < VECTORS; ++v)
            partial[k][v] = L::template row<T>(lookups, begin + k, column + v * WIDTH);
    int64_t i = 8;
    for (; i + 8 <= n; i += 8) {
        if (PREFETCH) L::prefetch(lookups, begin + i);
        UNROLL for (int k = 0; k < 8; ++k)
            UNROLL for (int v = 0; v < VECTORS; ++v)
                partial[k][v] = partial[k][v] + L::template row<T>(lookups, begin + i + k,
                                                                   column + v * WIDTH);
    }
    if (PREFETCH) L::prefetch(lookups, begin + n);
    UNROLL for (int k = 0; k < 7; ++k) {
        if (i + k >= n) break;
        UNROLL for (int v = 0; v < VECTORS; ++v)
            partial[k][v] = partial[k][v] + L::template row<T>(lookups, begin + i + k,
                                                               column + v * WIDTH);
    }
    UNROLL for (int v = 0; v < VECTORS; ++v)
        sum[v] = ((partial[0][v] + partial[1][v]) + (partial[2][v] + partial[3][v]))
                 + ((partial[4][v] + partial[5][v]) + (partial[6][v] + partial[7][v]));
}

// Hands the columns of a row out, widest vectors first: work<T, VECTORS>(column).
template <int MOST, class Work> INLINE void each_column(int64_t dim, Work &&work) {
    int64_t c = 0;
    if constexpr (MOST >= 4)
        for (; c + 4 * LANES <= dim; c += 4 * LANES) work.template operator()<wide, 4>(c);
    if constexpr (MOST >= 2)
        for (; c + 2 * LANES <= dim; c += 2 * LANES) work.template operator()<wide, 2>(c);
    for (; c + LANES <= dim; c += LANES) work.template operator()<wide, 1>(c);
    if constexpr (LANES > 4)
        for (; c + 4 <= dim; c += 4) work.template operator()<narrow, 1>(c);
    for (; c < dim; ++c) work.template operator()<float, 1>(c);
}

// Sums of the neighbours in the 2 * LANES elements of a and b, in order.
template <int... LANE>
INLINE wide neighbours(wide a, wide b, std::integer_sequence<int, LANE...>) {
    return __builtin_shufflevector(a, b, (2 * LANE)...)
           + __builtin_shufflevector(a, b, (2 * LANE + 1)...);
}

INLINE wide neighbours(wide a, wide b) {
    return neighbours(a, b, std::make_integer_sequence<int, LANES>());
}

// Elements of the scratch that a row's squares take: whole vectors, a power of two of them.
INLINE int64_t padded(int64_t dim) {
    int64_t n = LANES;
    while (n < dim) n *= 2;
    return n;
}

// Sum over the columns of one row, of the squares: the adjacent pairwise tree. `level` is scratch
// of padded(dim) elements that hold -0 from dim on: adding -0 is what an absent operand does.
INLINE float column_square_sum(const float *row, int64_t dim, float *level) {
    each_column<4>(dim, [&]<class T, int VECTORS>(int64_t column) ALWAYS {
        UNROLL for (int v = 0; v < VECTORS; ++v) {
            const int64_t c = column + v * int64_t(sizeof(T) / 4);
            const T x = load<T>(row + c);
            store(level + c, x * x);
        }
    });
    wide sum = load<wide>(level);
    const int64_t vectors = padded(dim) / LANES;
    if (vectors == 2) {
        sum = neighbours(sum, load<wide>(level + LANES));
    } else if (vectors == 4) {
        sum = neighbours(neighbours(sum, load<wide>(level + LANES)),
                         neighbours(load<wide>(level + 2 * LANES), load<wide>(level + 3 * LANES)));
    } else if (vectors > 4) {
        // Into the second half, because the -0 of the first must stay.
        float *next = level + padded(dim);
        const float *from = level;
        for (int64_t n = vectors / 2; n; n /= 2) {
            for (int64_t i = 0; i < n; ++i)
                store(next + i * LANES, neighbours(load<wide>(from + 2 * i * LANES),
                                                   load<wide>(from + (2 * i + 1) * LANES)));
            from = next;
        }
        sum = load<wide>(next);
    }
    UNROLL for (int n = LANES; n > 1; n /= 2) sum = neighbours(sum, sum);
    return canonical(static_cast<float>(sum[0]));
}

// Segments whose gradients wait for their update in row-wise Adagrad: the roots and divisions of a
// block are done together, and no row's update waits for its own.
constexpr int64_t BLOCK = 16;

// What happens to the sum of a segment: open, then put<T, VECTORS>(column, sums) for all columns,
// then close; and finish at the end.
template <int SINK> struct Target {
    const tc_pass &p;
    float *row = nullptr;
    float scale = 0;
    // For ROWWISE_ADAGRAD:
    float *gradients = nullptr;   // of the block
    float *level = nullptr;       // scratch of column_square_sum
    float reciprocal = 0;         // of the columns
    int64_t waiting = 0;
    int64_t numbers[BLOCK] = {};  // rows of the block
    float means[BLOCK] = {};

    INLINE void open(Target &t, int64_t segment) {
        const int64_t number = Integers::at(t.p.rows, segment);
        if constexpr (SINK == ROWWISE_ADAGRAD) {
            t.numbers[t.waiting] = number;
            t.row = t.gradients + t.waiting * t.p.dim;
        } else {
            t.row = t.p.dst + number * t.p.dst_stride;
        }
        if (SINK == WRITE && t.p.scales) t.scale = t.p.scales[segment];
    }

    template <class T, int VECTORS> INLINE void put(Target &t, int64_t column, const T *sums) {
        constexpr int64_t WIDTH = sizeof(T) / 4;
        UNROLL for (int v = 0; v < VECTORS; ++v) {
            const int64_t c = column + v * WIDTH;
            T x = sums[v];
            if (SINK == WRITE && t.p.scales) x = canonical(x * splat<T>(t.scale));
            if (SINK == SGD) x = canonical(load<T>(t.row + c) - splat<T>(t.p.lr) * x);
            store(t.row + c, x);
        }
    }

    INLINE void close(Target &t) {
        if constexpr (SINK == ROWWISE_ADAGRAD) {
            t.means[t.waiting] = column_square_sum(t.row, t.p.dim, t.level) * t.reciprocal;
            if (++t.waiting == BLOCK) update(t);
        }
    }

    INLINE void finish(Target &t) {
        if (SINK == ROWWISE_ADAGRAD) update(t);
    }

    static void update(Target &t) {
        float states[BLOCK], steps[BLOCK];
        for (int64_t k = 0; k < BLOCK; ++k)
            states[k] = k < t.waiting ? t.p.state[t.numbers[k]] : 0.0f;
        for (int64_t k = 0; k < BLOCK; ++k) {
            states[k] = canonical(states[k] + t.means[k]);
            steps[k] = canonical(t.p.lr / (std::sqrt(states[k]) + t.p.eps));
        }
        for (int64_t k = 0; k < t.waiting; ++k) {
            t.p.state[t.numbers[k]] = states[k];
            float *row = t.p.dst + t.numbers[k] * t.p.dst_stride;
            const float *gradient = t.gradients + k * t.p.dim;
            each_column<4>(t.p.dim, [&]<class T, int VECTORS>(int64_t column) ALWAYS {
                constexpr int64_t WIDTH = sizeof(T) / 4;
                UNROLL for (int v = 0; v < VECTORS; ++v) {
                    const int64_t c = column + v * WIDTH;
                    store(row + c, canonical(load<T>(row + c)
                                             - splat<T>(steps[k]) * load<T>(gradient + c)));
                }
            });
        }
        t.waiting = 0;
    }
};

INLINE int64_t offset(const tc_pass &p, int64_t segment) { return Integers::at(p.offsets, segment); }

template <class Index, bool WEIGHTED, int SINK>
void run_piece(const tc_pass &p, Index indices, int64_t begin, int64_t end) {
    typedef Lookups<Index, WEIGHTED> L;
    const int64_t row_bytes = 4 * p.dim;
    const int64_t distance = std::clamp<int64_t>(BYTES_AHEAD / row_bytes, 8, 128);
    L lookups = {p.src, indices, p.weights, p.src_stride, row_bytes, distance,
                 offset(p, end), offset(p, begin)};
    std::vector<float> scratch(
        SINK == ROWWISE_ADAGRAD ? 2 * padded(p.dim) + BLOCK * p.dim : 0, -0.0f);
    Target<SINK> target = {p};
    target.level = scratch.data(), target.gradients = target.level + 2 * padded(p.dim);
    target.reciprocal = 1.0f / static_cast<float>(p.dim);
    // Targets of an update are read, so they are fetched ahead as well, by segments.
    int64_t target_ahead = begin;
    L::prefetch(lookups, offset(p, begin));
    int64_t stop = offset(p, begin);
    for (int64_t s = begin; s < end; ++s) {
        const int64_t start = stop, n = (stop = offset(p, s + 1)) - start;
        if constexpr (SINK != WRITE) {
            // One by one: measured a tenth faster than BURST at a time, other than for lookups.
            const int64_t until = std::min(s + TARGETS_AHEAD, end);
            for (; target_ahead < until; ++target_ahead) {
                const int64_t number = Integers::at(p.rows, target_ahead);
                prefetch_row(p.dst + number * p.dst_stride, row_bytes);
                if (SINK == ROWWISE_ADAGRAD) prefetch_line(p.state + number);
            }
        }
        Target<SINK>::open(target, s);
        // Arithmetic makes the contract's NaN; a row alone is a copy, bit for bit.
        const bool copied = n == 1 && !WEIGHTED;
        if (n > 8) {
            each_column<LONG_VECTORS>(p.dim, [&]<class T, int VECTORS>(int64_t column) ALWAYS {
                T sums[VECTORS];
                if (column == 0) sum_long<T, VECTORS, true>(lookups, start, n, column, sums);
                else sum_long<T, VECTORS, false>(lookups, start, n, column, sums);
                UNROLL for (int v = 0; v < VECTORS; ++v) sums[v] = canonical(sums[v]);
                Target<SINK>::template put<T, VECTORS>(target, column, sums);
            });
        } else {
            L::prefetch(lookups, stop);
            each_column<4>(p.dim, [&]<class T, int VECTORS>(int64_t column) ALWAYS {
                T sums[VECTORS] = {};
                if (n) sum_short<T, VECTORS>(lookups, start, n, column, sums);
                if (!copied) UNROLL for (int v = 0; v < VECTORS; ++v) sums[v] = canonical(sums[v]);
                Target<SINK>::template put<T, VECTORS>(target, column, sums);
            });
        }
        Target<SINK>::close(target);
    }
    Target<SINK>::finish(target);
}

template <class Index, bool WEIGHTED>
void run_sink(const tc_pass &p, Index indices, int64_t begin, int64_t end) {
    if (p.sink == WRITE) run_piece<Index, WEIGHTED, WRITE>(p, indices, begin, end);
    else if (p.sink == SGD) run_piece<Index, WEIGHTED, SGD>(p, indices, begin, end);
    else run_piece<Index, WEIGHTED, ROWWISE_ADAGRAD>(p, indices, begin, end);
}

template <class Index>
void run_index(const tc_pass &p, Index indices, int64_t begin, int64_t end) {
    const DefaultFloats mode;
    if (p.weights) run_sink<Index, true>(p, indices, begin, end);
    else run_sink<Index, false>(p, indices, begin, end);
}

void run_range(const tc_pass &p, int64_t begin, int64_t end) {
    if (p.indices.bytes == 4)
        run_index(p, static_cast<const int32_t *>(p.indices.base), begin, end);
    else if (p.indices.bytes == 8)
        run_index(p, static_cast<const int64_t *>(p.indices.base), begin, end);
    else
        run_index(p, Sequence{}, begin, end);
}

// The first segment of piece `piece` of `pieces`: equal shares of segments and lookups, because an
// empty segment costs something as well.
int64_t first_segment(const tc_pass &p, int64_t piece, int64_t pieces) {
    if (piece == pieces) return p.n_segments;
    const int64_t total = p.n_segments + offset(p, p.n_segments);
    const int64_t goal = static_cast<int64_t>(static_cast<__int128>(total) * piece / pieces);
    int64_t low = 0, high = p.n_segments;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (middle + offset(p, middle) < goal) low = middle + 1;
        else high = middle;
    }
    return low;
}

// Below this many elements the threads are not worth waking.
constexpr int64_t ELEMENTS_PER_THREAD = 1 << 17;
// Pieces of each thread: what one does not get done the others take.
constexpr int64_t PIECES_PER_THREAD = 8;

}  // namespace

extern "C" void tc_run(const tc_pass *pass) {
    const tc_pass &p = *pass;
    if (!p.n_segments) return;
    const int64_t elements = (p.n_segments + offset(p, p.n_segments)) * p.dim;
    const int64_t threads = std::clamp<int64_t>(elements / ELEMENTS_PER_THREAD, 1, p.threads);
    if (threads == 1) return run_range(p, 0, p.n_segments);
    const int64_t pieces = std::min(threads * PIECES_PER_THREAD, p.n_segments);
#pragma omp parallel for schedule(dynamic, 1) num_threads(static_cast<int>(threads))
    for (int64_t piece = 0; piece < pieces; ++piece)
        run_range(p, first_segment(p, piece, pieces), first_segment(p, piece + 1, pieces));
}

// ---- checks

namespace {

template <class T> int64_t first_outside(const T *values, int64_t n, int64_t limit) {
    typedef typename std::make_unsigned<T>::type U;
    const U top = static_cast<U>(std::min<int64_t>(limit, std::numeric_limits<T>::max()));
    const bool all = limit > std::numeric_limits<T>::max();
    for (int64_t begin = 0; begin < n; begin += 4096) {
        const int64_t end = std::min<int64_t>(begin + 4096, n);
        U outside = 0;
        for (int64_t i = begin; i < end; ++i)
            outside |= all ? U(values[i] < 0) : U(static_cast<U>(values[i]) >= top);
        if (!outside) continue;
        for (int64_t i = begin; i < end; ++i)
            if (values[i] < 0 || values[i] >= limit) return i;
    }
    return -1;
}

template <class T> int64_t first_fall(const T *values, int64_t n) {
    T falls = 0;
    for (int64_t i = 1; i < n; ++i) falls |= values[i] < values[i - 1];
    if (!falls) return -1;
    for (int64_t i = 1; i < n; ++i)
        if (values[i] < values[i - 1]) return i;
    return -1;
}

}  // namespace

// The position of the first value that is not in [0, limit), or -1.
extern "C" int64_t tc_first_outside(const void *values, int64_t bytes, int64_t n, int64_t limit) {
    return bytes == 4 ? first_outside(static_cast<const int32_t *>(values), n, limit)
                      : first_outside(static_cast<const int64_t *>(values), n, limit);
}

// The position of the first value that is below the one before it, or -1.
extern "C" int64_t tc_first_fall(const void *values, int64_t bytes, int64_t n) {
    return bytes == 4 ? first_fall(static_cast<const int32_t *>(values), n)
                      : first_fall(static_cast<const int64_t *>(values), n);
}

// ---- casting

// The same as _Cast in host/native.py.
struct tc_cast_arguments {
    Integers indices;             // rows of the lookups, in [0, 2**row_bits)
    Integers offsets;
    int64_t n_lookups, n_bags;
    int64_t row_bits, low_bits;   // a key is the row, then low_bits of its bag or its position
    int64_t by_position;          // keys hold the position: bag, weight and position follow from it
    int64_t threads;
    const float *weights;         // of the lookups, or null
    void *bags, *segment_offsets, *rows, *positions;  // like indices; positions or null
    float *casted_weights;
    void *keys, *spare;           // scratch: n_lookups keys each
    int32_t *bag_of_lookup;       // scratch: n_lookups, with by_position
    int64_t key_bytes;            // 4 or 8
};

namespace {

constexpr int64_t MOST_DIGIT_BITS = 11;
constexpr int64_t MOST_BINS = 1 << MOST_DIGIT_BITS;

template <class Key, class Index> struct Cast {
    const tc_cast_arguments &a;
    int64_t threads;
    std::vector<int64_t> counts;   // of each thread and digit, then where its next key goes
    std::vector<int64_t> n_runs;   // of each thread

    explicit Cast(const tc_cast_arguments &arguments, int64_t n_threads)
        : a(arguments), threads(n_threads), counts(n_threads * MOST_BINS), n_runs(n_threads + 1) {}

    int64_t share(int64_t thread) const { return a.n_lookups * thread / threads; }

    // Keys of lookups begin to end - 1.
    void pack(int64_t begin, int64_t end) {
        const Index *indices = static_cast<const Index *>(a.indices.base);
        Key *keys = static_cast<Key *>(a.keys);
        int64_t low = 0, high = a.n_bags;   // the bag of lookup `begin`: the last that starts there
        while (low < high) {
            const int64_t middle = (low + high + 1) / 2;
            if (middle < a.n_bags && Integers::at(a.offsets, middle) <= begin) low = middle;
            else high = middle - 1;
        }
        for (int64_t bag = low, i = begin; i < end; ++bag) {
            const int64_t stop = std::min(Integers::at(a.offsets, bag + 1), end);
            if (a.by_position) {
                for (; i < stop; ++i) {
                    keys[i] = static_cast<Key>(indices[i]) << a.low_bits | static_cast<Key>(i);
                    a.bag_of_lookup[i] = static_cast<int32_t>(bag);
                }
            } else {
                for (; i < stop; ++i)
                    keys[i] = static_cast<Key>(indices[i]) << a.low_bits | static_cast<Key>(bag);
            }
        }
    }

    // One pass of the stable sort: from -> to by the digit at `shift`.
    void count(const Key *from, int64_t shift, Key mask, int64_t thread) {
        int64_t *mine = &counts[thread * MOST_BINS];
        std::fill(mine, mine + mask + 1, 0);
        // Two tables by turns: equal digits in a row would wait for each other's count.
        int64_t other[MOST_BINS];
        std::fill(other, other + mask + 1, 0);
        const int64_t end = share(thread + 1);
        int64_t i = share(thread);
        for (; i + 2 <= end; i += 2) {
            ++mine[from[i] >> shift & mask];
            ++other[from[i + 1] >> shift & mask];
        }
        if (i < end) ++mine[from[i] >> shift & mask];
        for (Key digit = 0; digit <= mask; ++digit) mine[digit] += other[digit];
    }

    void place(Key mask) {
        int64_t next = 0;
        for (Key digit = 0; digit <= mask; ++digit)
            for (int64_t thread = 0; thread < threads; ++thread) {
                int64_t &count = counts[thread * MOST_BINS + digit];
                const int64_t here = count;
                count = next;
                next += here;
            }
    }

    void move(const Key *from, Key *to, int64_t shift, Key mask, int64_t thread) {
        int64_t *next = &counts[thread * MOST_BINS];
        // In a variable: the stores below might change what share() divides.
        const int64_t end = share(thread + 1);
        for (int64_t i = share(thread); i < end; ++i)
            to[next[from[i] >> shift & mask]++] = from[i];
    }

    static bool starts(const Key *keys, int64_t i, int64_t low_bits) {
        return i == 0 || keys[i] >> low_bits != keys[i - 1] >> low_bits;
    }

    void count_runs(const Key *keys, int64_t thread) {
        int64_t n = 0;
        const int64_t end = share(thread + 1);
        for (int64_t i = share(thread); i < end; ++i) n += starts(keys, i, a.low_bits);
        n_runs[thread + 1] = n;
    }

    // Bags (and positions and weights) of the thread's share of the sorted keys.
    void emit_lookups(const Key *keys, int64_t thread) {
        Index *bags = static_cast<Index *>(a.bags), *positions = static_cast<Index *>(a.positions);
        const Key low_mask = (static_cast<Key>(1) << a.low_bits) - 1;
        const int64_t begin = share(thread), end = share(thread + 1);
        if (!a.by_position) {
            for (int64_t i = begin; i < end; ++i) bags[i] = static_cast<Index>(keys[i] & low_mask);
            return;
        }
        for (int64_t i = begin; i < end; ++i) {
            const Key position = keys[i] & low_mask;
            bags[i] = static_cast<Index>(a.bag_of_lookup[position]);
            positions[i] = static_cast<Index>(position);
            if (a.weights) a.casted_weights[i] = a.weights[position];
        }
    }

    // Rows and starts of the runs in the thread's share; `run` is the number of its first own run.
    // Returns the number of the run after its last.
    int64_t emit_runs(const Key *keys, int64_t thread, int64_t run) {
        Index *rows = static_cast<Index *>(a.rows);
        Index *starts_of_runs = static_cast<Index *>(a.segment_offsets);
        const int64_t end = share(thread + 1);
        int64_t i = share(thread);
        for (; i < end && (i == 0 || !starts(keys, i, a.low_bits)); ++i)
            if (i == 0) rows[0] = static_cast<Index>(keys[0] >> a.low_bits), starts_of_runs[run++] = 0;
        i = emit_blocks(keys, i, end, run, rows, starts_of_runs);
        for (; i < end; ++i)
            if (starts(keys, i, a.low_bits)) {
                rows[run] = static_cast<Index>(keys[i] >> a.low_bits);
                starts_of_runs[run++] = static_cast<Index>(i);
            }
        return run;
    }

    // The same for whole vectors of keys; returns where it stopped. Nobody can predict where a run
    // starts, so there is no branch on it.
    int64_t emit_blocks(const Key *keys, int64_t i, int64_t end, int64_t &run, Index *rows,
                        Index *starts_of_runs) {
#if defined(__AVX512F__)
        if constexpr (sizeof(Key) == 4) {
            const __m128i low = _mm_cvtsi64_si128(a.low_bits);
            __m512i numbers = _mm512_add_epi32(
                _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                _mm512_set1_epi32(static_cast<int>(i)));
            for (; i + 16 <= end; i += 16) {
                const __m512i row = _mm512_srl_epi32(_mm512_loadu_si512(keys + i), low);
                const __m512i before = _mm512_srl_epi32(_mm512_loadu_si512(keys + i - 1), low);
                const __mmask16 first = _mm512_cmpneq_epu32_mask(row, before);
                const int n = __builtin_popcount(first);
                prefetch_for_writing(rows + run, 16);
                prefetch_for_writing(starts_of_runs + run, 16);
                keep(rows + run, _mm512_maskz_compress_epi32(first, row), n);
                keep(starts_of_runs + run, _mm512_maskz_compress_epi32(first, numbers), n);
                run += n;
                numbers = _mm512_add_epi32(numbers, _mm512_set1_epi32(16));
            }
        }
#endif
        return i;
    }

#if defined(__AVX512F__)
    // Stores the first n of the 32-bit values; what lies behind belongs to another thread.
    INLINE void keep(Index *to, __m512i values, int n) {
        const unsigned mask = (1u << n) - 1;
        if constexpr (sizeof(Index) == 4) {
            _mm512_mask_storeu_epi32(to, static_cast<__mmask16>(mask), values);
        } else {
            _mm512_mask_storeu_epi64(to, static_cast<__mmask8>(mask),
                                     _mm512_cvtepu32_epi64(_mm512_castsi512_si256(values)));
            _mm512_mask_storeu_epi64(to + 8, static_cast<__mmask8>(mask >> 8),
                                     _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(values, 1)));
        }
    }
#endif

    int64_t all() {
        Key *from = static_cast<Key *>(a.keys), *to = static_cast<Key *>(a.spare);
        const int64_t passes = (a.row_bits + MOST_DIGIT_BITS - 1) / MOST_DIGIT_BITS;
        const int64_t digit_bits = passes ? (a.row_bits + passes - 1) / passes : 0;
        const Key mask = (static_cast<Key>(1) << digit_bits) - 1;
        int64_t total = 0;
#pragma omp parallel num_threads(static_cast<int>(threads)) firstprivate(from, to)
        {
            const int64_t thread = omp_get_thread_num();
#pragma omp single
            threads = omp_get_num_threads();   // the system may give fewer
            pack(share(thread), share(thread + 1));
            for (int64_t pass = 0; pass < passes; ++pass) {
                const int64_t shift = a.low_bits + pass * digit_bits;
#pragma omp barrier
                count(from, shift, mask, thread);
#pragma omp barrier
#pragma omp single
                place(mask);
                move(from, to, shift, mask, thread);
                std::swap(from, to);
            }
#pragma omp barrier
            if (threads > 1) count_runs(from, thread);
#pragma omp barrier
#pragma omp single
            for (int64_t t = 0; t < threads; ++t) n_runs[t + 1] += n_runs[t];
            emit_lookups(from, thread);
            const int64_t end = emit_runs(from, thread, n_runs[thread]);
            if (thread == threads - 1) total = end;
        }
        static_cast<Index *>(a.segment_offsets)[total] = static_cast<Index>(a.n_lookups);
        return total;
    }
};

constexpr int64_t LOOKUPS_PER_THREAD = 1 << 14;

template <class Index> int64_t cast_of(const tc_cast_arguments &a) {
    const int64_t threads = std::clamp<int64_t>(a.n_lookups / LOOKUPS_PER_THREAD, 1, a.threads);
    return a.key_bytes == 4 ? Cast<uint32_t, Index>(a, threads).all()
                            : Cast<uint64_t, Index>(a, threads).all();
}

}  // namespace

// Casts; returns the number of segments.
extern "C" int64_t tc_cast(const tc_cast_arguments *a) {
    return a->indices.bytes == 4 ? cast_of<int32_t>(*a) : cast_of<int64_t>(*a);
}

// ---- the machine's limits, measured on the same rows

namespace {

// Calls work(row) for rows begin to end - 1 in order, prefetched like those of a pass.
template <class Work>
INLINE void each_row(const float *table, int64_t dim, int64_t begin, int64_t end,
                     const int64_t *rows, int64_t distance, Work &&work) {
    for (int64_t i = begin, ahead = begin; i < end; ++i) {
        const int64_t until = std::min(i + distance, end);
        if (until - ahead >= BURST || until == end)
            for (; ahead < until; ++ahead) prefetch_row(table + rows[ahead] * dim, 4 * dim);
        work(table + rows[i] * dim);
    }
}

float read_rows(const float *table, int64_t dim, int64_t begin, int64_t end,
                const int64_t *rows, int64_t distance) {
    wide sums[4] = {};
    each_row(table, dim, begin, end, rows, distance, [&](const float *row) ALWAYS {
        int64_t c = 0;
        for (; c + 4 * LANES <= dim; c += 4 * LANES)
            UNROLL for (int v = 0; v < 4; ++v) sums[v] += load<wide>(row + c + v * LANES);
        for (; c + LANES <= dim; c += LANES) sums[0] += load<wide>(row + c);
    });
    float total = 0;
    for (int v = 0; v < 4; ++v)
        for (int lane = 0; lane < LANES; ++lane) total += sums[v][lane];
    return total;
}

}  // namespace

// Reads the rows in order into registers, each thread a share of them.
extern "C" float tc_read_rows(const float *table, int64_t dim, int64_t n, const int64_t *rows,
                              int64_t distance, int64_t threads) {
    float total = 0;
#pragma omp parallel for num_threads(static_cast<int>(threads)) reduction(+ : total)
    for (int64_t t = 0; t < threads; ++t)
        total += read_rows(table, dim, n * t / threads, n * (t + 1) / threads, rows, distance);
    return total;
}

// Adds a number to every element of the rows, in order, each thread to a share of them.
extern "C" void tc_update_rows(float *table, int64_t dim, int64_t n, const int64_t *rows,
                               int64_t distance, int64_t threads) {
    const wide small = splat<wide>(0x1p-20f);
#pragma omp parallel for num_threads(static_cast<int>(threads))
    for (int64_t t = 0; t < threads; ++t)
        each_row(table, dim, n * t / threads, n * (t + 1) / threads, rows, distance,
                 [&](const float *from) ALWAYS {
                     float *row = const_cast<float *>(from);
                     for (int64_t c = 0; c + LANES <= dim; c += LANES)
                         store(row + c, load<wide>(row + c) + small);
                 });
}
