// Gather, reduce, update: one pass of the engine's dataflow, on a GPU.
//
// The numerics are those of docs/numerics.md, to the bit: eight partial sums, an adjacent pairwise
// tree, every operation rounded on its own (the _rn intrinsics are never contracted), no atomics on
// floats. Two ways through the kernel give the same bits:
//
// - A segment of at most TC_LONG lookups is summed by a group of TC_LANES threads of one warp, each
//   with TC_VECTOR neighbouring columns and all eight partial sums in registers: eight rows are in
//   flight at a time. A group takes TC_BATCH segments together, so that the target rows and first
//   source rows of all of them are in flight as well: most segments of a backward pass have one
//   row.
// - A longer segment (found beforehand: `long_list`) is cut into slices of TC_SLICE columns. The
//   first `long_blocks` blocks of the grid, which start first, take one slice at a time: all
//   threads copy rows to shared memory, TC_STAGES buffers ahead, and eight times TC_SLICE threads
//   add, one for each partial sum of each column. The whole card works on one segment of 10^5 rows.
//
// Indices, offsets and rows were checked, but memory may have changed since: they are clamped, so
// that nothing outside the arrays is touched, whatever they hold.

#ifndef TC_VECTOR
#define TC_VECTOR 4            // columns of a thread: 4 with rows aligned to 16 bytes, else 1
#endif
#ifndef TC_LANES
#define TC_LANES 16            // threads of a row: a power of two up to 32
#endif
#ifndef TC_TILES
#define TC_TILES 1             // ceil(D / (TC_LANES * TC_VECTOR)), if known; 0: any number
#endif
#ifndef TC_INDEX
#define TC_INDEX int           // of indices and rows
#endif
#ifndef TC_OFFSET
#define TC_OFFSET int
#endif
#ifndef TC_SINK
#define TC_SINK 0              // 0: overwrite, 1: SGD, 2: row-wise Adagrad
#endif
#ifndef TC_STAGED
#define TC_STAGED 1            // 0: there are no long segments
#endif
#ifndef TC_BLOCK
#define TC_BLOCK 256
#endif
#ifndef TC_MIN_BLOCKS
#define TC_MIN_BLOCKS 2        // blocks that must fit a multiprocessor: bounds the registers
#endif
#ifndef TC_BATCH
#define TC_BATCH 1
#endif
#ifndef TC_LONG
#define TC_LONG 256            // at least 8
#endif
#ifndef TC_SLICE
#define TC_SLICE 8
#endif
#ifndef TC_STAGES
#define TC_STAGES 4
#endif
#ifndef TC_STAGE_ROWS
#define TC_STAGE_ROWS 256      // a multiple of 8; at most TC_BLOCK
#endif

#define TC_DEVICE static __device__ __forceinline__
#define TC_NAN __int_as_float(0x7fc00000)

typedef long long tc_long;

#ifndef TC_EMULATED
TC_DEVICE unsigned tc_shared_address(const void *p) {
    return (unsigned)__cvta_generic_to_shared(p);
}
// Copies TC_VECTOR floats to shared memory without waiting for them.
TC_DEVICE void tc_copy_row(float *to, const float *from) {
#if TC_VECTOR == 4
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::
                 "r"(tc_shared_address(to)), "l"(from) : "memory");
#else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::
                 "r"(tc_shared_address(to)), "l"(from) : "memory");
#endif
}
TC_DEVICE void tc_copy_one(float *to, const float *from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::
                 "r"(tc_shared_address(to)), "l"(from) : "memory");
}
TC_DEVICE void tc_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until all but the newest `Newest` groups have arrived.
template <int Newest> TC_DEVICE void tc_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(Newest) : "memory");
}
#endif

struct tc_pass {
    const float *src;           // source rows
    const TC_INDEX *indices;    // source row of each lookup; null: lookup i reads row i
    const TC_OFFSET *offsets;   // segments; null: each lookup its own
    const float *weights;       // factor of each lookup, or null
    const TC_INDEX *rows;       // target row of each segment; null: segment s goes to row s
    float *dst;                 // target rows
    float *state;               // of row-wise Adagrad, one for each target row
    tc_long src_rows, src_stride, dst_rows, dst_stride, n_lookups, n_segments;
    int dim, mean;              // mean: each sum times RN(1 / n)
    float lr, eps;
};

struct tc_vector { float v[TC_VECTOR]; };

// A NaN that arithmetic returns is the one NaN of the contract.
TC_DEVICE float tc_canonical(float x) { return x != x ? TC_NAN : x; }

TC_DEVICE tc_long tc_clamp(tc_long x, tc_long limit) { return x < 0 ? 0 : x < limit ? x : limit; }

TC_DEVICE tc_long tc_row(TC_INDEX row, tc_long n_rows) {
    return (unsigned long long)row < (unsigned long long)n_rows ? (tc_long)row : 0;
}

TC_DEVICE void tc_segment(const tc_pass &p, tc_long segment, tc_long *begin, tc_long *n) {
    if (!p.offsets) { *begin = segment; *n = 1; return; }
    *begin = tc_clamp(p.offsets[segment], p.n_lookups);
    const tc_long end = tc_clamp(p.offsets[segment + 1], p.n_lookups);
    *n = end > *begin ? end - *begin : 0;
}

// Source rows are used again (by other segments); what is updated or written is not.
TC_DEVICE tc_vector tc_load(const float *p) {
    tc_vector x;
#if TC_VECTOR == 4
    const float4 y = __ldg((const float4 *)p);
    x.v[0] = y.x; x.v[1] = y.y; x.v[2] = y.z; x.v[3] = y.w;
#else
    x.v[0] = __ldg(p);
#endif
    return x;
}

TC_DEVICE tc_vector tc_load_old(const float *p) {
    tc_vector x;
#if TC_VECTOR == 4
    const float4 y = __ldcs((const float4 *)p);
    x.v[0] = y.x; x.v[1] = y.y; x.v[2] = y.z; x.v[3] = y.w;
#else
    x.v[0] = __ldcs(p);
#endif
    return x;
}

TC_DEVICE void tc_store(float *p, const tc_vector &x) {
#if TC_VECTOR == 4
    float4 y;
    y.x = x.v[0]; y.y = x.v[1]; y.z = x.v[2]; y.w = x.v[3];
    __stcs((float4 *)p, y);
#else
    __stcs(p, x.v[0]);
#endif
}

#define TC_COLUMNS _Pragma("unroll") for (int c = 0; c < TC_VECTOR; ++c)

TC_DEVICE void tc_add_to(tc_vector &x, const tc_vector &y) {
    TC_COLUMNS x.v[c] = __fadd_rn(x.v[c], y.v[c]);
}

TC_DEVICE void tc_weigh(tc_vector &x, float weight) {
    TC_COLUMNS x.v[c] = __fmul_rn(weight, x.v[c]);
}

// The sum of a segment of 1 <= n <= TC_LONG lookups; `first` is its first row as it stands in
// memory. Without indices there are no segments of several lookups. An absent operand of the tree leaves the other unchanged.
TC_DEVICE tc_vector tc_sum(const tc_pass &p, tc_long begin, int n, const float *src,
                           const tc_vector &first) {
    if (n == 1 && !p.weights) return first;  // a copy, bit for bit
    const TC_INDEX *indices = p.indices ? p.indices + begin : 0;
    const float *weights = p.weights ? p.weights + begin : 0;
    tc_vector sums[8], x[8];
    TC_INDEX at[8];
    // The numbers of the next eight rows are fetched while eight rows are in flight.
#define TC_FETCH(base) \
    _Pragma("unroll") for (int k = 0; k < 8; ++k) { \
        const int i = (base) + k < n ? (base) + k : n - 1; \
        at[k] = indices ? indices[i] : 0; \
    }
#define TC_ROWS(base, from) \
    _Pragma("unroll") for (int k = from; k < 8; ++k) \
        if ((base) + k < n) x[k] = tc_load(src + tc_row(at[k], p.src_rows) * p.src_stride);
#define TC_WEIGH(base) \
    if (weights) { _Pragma("unroll") for (int k = 0; k < 8; ++k) \
        if ((base) + k < n) tc_weigh(x[k], __ldg(weights + (base) + k)); }
    TC_FETCH(0)
    x[0] = first;
    TC_ROWS(0, 1)
    TC_FETCH(8)
    TC_WEIGH(0)
    _Pragma("unroll") for (int k = 0; k < 8; ++k) sums[k] = x[k];  // as they are: -0 + 0 is +0
    for (int base = 8; base < n; base += 8) {
        TC_ROWS(base, 0)
        TC_FETCH(base + 8)
        TC_WEIGH(base)
        _Pragma("unroll") for (int k = 0; k < 8; ++k)
            if (base + k < n) tc_add_to(sums[k], x[k]);
    }
    _Pragma("unroll") for (int distance = 1; distance < 8; distance *= 2)
        _Pragma("unroll") for (int k = 0; k < 8; k += 2 * distance)
            if (k + distance < n) tc_add_to(sums[k], sums[k + distance]);
    TC_COLUMNS sums[0].v[c] = tc_canonical(sums[0].v[c]);
    return sums[0];
}

TC_DEVICE float tc_scaled(float sum, tc_long n) {
    return n ? tc_canonical(__fmul_rn(sum, __fdiv_rn(1.0f, (float)n))) : sum;
}

TC_DEVICE float tc_stepped(float old, float step, float gradient) {
    return tc_canonical(__fsub_rn(old, __fmul_rn(step, gradient)));
}

// Row-wise Adagrad's step of a row, and its new state, from the sum of its squared gradients.
TC_DEVICE float tc_adagrad(const tc_pass &p, float *state, float squares) {
    const float share = __fmul_rn(tc_canonical(squares), __fdiv_rn(1.0f, (float)p.dim));
    *state = tc_canonical(__fadd_rn(*state, share));
    return tc_canonical(__fdiv_rn(p.lr, __fadd_rn(__fsqrt_rn(*state), p.eps)));
}

// Sum over the columns of a tile, by the adjacent pairwise tree, in every lane of the group.
// Absent columns count as +0, which changes nothing: no square is -0.
template <int Lanes> TC_DEVICE float tc_tile_squares(const tc_vector &gradient, bool present) {
    float level[TC_VECTOR];
    TC_COLUMNS level[c] = present ? __fmul_rn(gradient.v[c], gradient.v[c]) : 0.0f;
    _Pragma("unroll") for (int distance = 1; distance < TC_VECTOR; distance *= 2)
        _Pragma("unroll") for (int c = 0; c < TC_VECTOR; c += 2 * distance)
            level[c] = __fadd_rn(level[c], level[c + distance]);
    const int lane = threadIdx.x % 32;
    const unsigned mask = Lanes == 32 ? 0xffffffffu
        : ((1u << (Lanes % 32)) - 1) << (lane / Lanes * Lanes);
    _Pragma("unroll") for (int distance = 1; distance < Lanes; distance *= 2)
        level[0] = __fadd_rn(level[0], __shfl_xor_sync(mask, level[0], distance));
    return level[0];
}

// A sum over tiles by the adjacent pairwise tree, one tile at a time: like a binary counter.
struct tc_counter {
    float level[32];
    int count;
};

TC_DEVICE void tc_count(tc_counter &counter, float sum) {
    int n = 0;
    for (; counter.count >> n & 1; ++n) sum = __fadd_rn(counter.level[n], sum);
    counter.level[n] = sum;
    ++counter.count;
}

TC_DEVICE float tc_total(const tc_counter &counter) {
    int n = 0;
    while (!(counter.count >> n & 1)) ++n;
    float sum = counter.level[n];
    for (++n; counter.count >> n; ++n)
        if (counter.count >> n & 1) sum = __fadd_rn(counter.level[n], sum);
    return sum;
}

#if TC_STAGED

struct tc_stages {
    float rows[TC_STAGES][TC_STAGE_ROWS][TC_SLICE];
    float weights[TC_STAGES][TC_STAGE_ROWS];
    float sums[8][TC_SLICE];
    float step;
    int last;
};

// Sum and sink of one slice of columns of one long segment, by a whole block.
TC_DEVICE void tc_long_slice(const tc_pass &p, tc_stages &shared, tc_long slot, tc_long segment,
                             int column, float *scratch, int *finished) {
    const int thread = threadIdx.x;
    const int width = p.dim - column < TC_SLICE ? p.dim - column : TC_SLICE;
    tc_long begin, n;
    tc_segment(p, segment, &begin, &n);
    if (n <= TC_LONG) return;  // not one of ours: the list has been overwritten

    // A thread's copies of a chunk of rows: which row of the chunk, which columns of the slice.
    constexpr int Pieces = TC_SLICE / TC_VECTOR;
    constexpr int Copies = (TC_STAGE_ROWS * Pieces + TC_BLOCK - 1) / TC_BLOCK;
    tc_long at[Copies];
    const tc_long chunks = (n + TC_STAGE_ROWS - 1) / TC_STAGE_ROWS;
#define TC_FIND(chunk) \
    _Pragma("unroll") for (int k = 0; k < Copies; ++k) { \
        const tc_long i = (chunk) * TC_STAGE_ROWS + (thread + k * TC_BLOCK) / Pieces; \
        const tc_long lookup = begin + (i < n ? i : n - 1); \
        at[k] = p.indices ? tc_row(p.indices[lookup], p.src_rows) : lookup; \
    }
#define TC_COPY(chunk) \
    if ((chunk) < chunks) { \
        const int stage = (int)((chunk) % TC_STAGES); \
        const tc_long done = (chunk) * TC_STAGE_ROWS; \
        _Pragma("unroll") for (int k = 0; k < Copies; ++k) { \
            const int row = (thread + k * TC_BLOCK) / Pieces; \
            const int piece = (thread + k * TC_BLOCK) % Pieces * TC_VECTOR; \
            if (row < TC_STAGE_ROWS && done + row < n && piece < width) \
                tc_copy_row(&shared.rows[stage][row][piece], \
                            p.src + at[k] * p.src_stride + column + piece); \
        } \
        if (p.weights && thread < TC_STAGE_ROWS && done + thread < n) \
            tc_copy_one(&shared.weights[stage][thread], p.weights + begin + done + thread); \
        TC_FIND((chunk) + 1) \
    } \
    tc_commit();

    __syncthreads();  // the block has done with the slice before
    TC_FIND((tc_long)0)
    for (int chunk = 0; chunk < TC_STAGES - 1; ++chunk) { TC_COPY((tc_long)chunk) }
    const int partial = thread / TC_SLICE, offset = thread % TC_SLICE;
    const bool adds = partial < 8 && offset < width;
    float sum = 0.0f;
    for (tc_long chunk = 0; chunk < chunks; ++chunk) {
        tc_wait<TC_STAGES - 2>();
        __syncthreads();  // the chunk is there for all, and the buffer of the one before is free
        TC_COPY(chunk + TC_STAGES - 1)
        if (adds) {
            const int stage = (int)(chunk % TC_STAGES);
            const tc_long left = n - chunk * TC_STAGE_ROWS;
            const int rows = left < TC_STAGE_ROWS ? (int)left : TC_STAGE_ROWS;
            int row = partial;
            if (chunk == 0) {
                sum = shared.rows[0][row][offset];
                if (p.weights) sum = __fmul_rn(shared.weights[0][row], sum);
                row += 8;
            }
            if (p.weights) {
                _Pragma("unroll 8") for (; row < rows; row += 8)
                    sum = __fadd_rn(sum, __fmul_rn(shared.weights[stage][row],
                                                   shared.rows[stage][row][offset]));
            } else {
                _Pragma("unroll 8") for (; row < rows; row += 8)
                    sum = __fadd_rn(sum, shared.rows[stage][row][offset]);
            }
        }
    }
    if (adds) shared.sums[partial][offset] = sum;
    __syncthreads();
    const tc_long row = p.rows ? tc_row(p.rows[segment], p.dst_rows) : segment;
    float *target = p.dst + row * p.dst_stride;
    if (thread < width) {
        float pairs[8];
        _Pragma("unroll") for (int k = 0; k < 8; ++k) pairs[k] = shared.sums[k][thread];
        _Pragma("unroll") for (int distance = 1; distance < 8; distance *= 2)
            _Pragma("unroll") for (int k = 0; k < 8; k += 2 * distance)
                pairs[k] = __fadd_rn(pairs[k], pairs[k + distance]);
        float gradient = tc_canonical(pairs[0]);
        if (p.mean) gradient = tc_scaled(gradient, n);
#if TC_SINK == 0
        target[column + thread] = gradient;
#elif TC_SINK == 1
        target[column + thread] = tc_stepped(target[column + thread], p.lr, gradient);
#else
        scratch[slot * p.dim + column + thread] = gradient;
        __threadfence();
#endif
    }
#if TC_SINK == 2
    // The step needs all columns: the block that comes last takes it for all of the row.
    __syncthreads();
    const int slices = (p.dim + TC_SLICE - 1) / TC_SLICE;
    if (thread == 0) shared.last = atomicAdd(finished + slot, 1) == slices - 1;
    __syncthreads();
    if (!shared.last) return;
    __threadfence();
    const float *gradient = scratch + slot * p.dim;
    if (thread < 32) {
        tc_counter counter;
        counter.count = 0;
        for (int tile = 0; tile < p.dim; tile += 32) {
            float square = 0.0f;
            if (tile + thread < p.dim) {
                const float g = __ldcg(gradient + tile + thread);
                square = __fmul_rn(g, g);
            }
            _Pragma("unroll") for (int distance = 1; distance < 32; distance *= 2)
                square = __fadd_rn(square, __shfl_xor_sync(0xffffffffu, square, distance));
            tc_count(counter, square);
        }
        if (thread == 0) {
            float state = p.state[row];
            shared.step = tc_adagrad(p, &state, tc_total(counter));
            p.state[row] = state;
        }
    }
    __syncthreads();
    for (int c = thread; c < p.dim; c += TC_BLOCK)
        target[c] = tc_stepped(target[c], shared.step, __ldcg(gradient + c));
#endif
}

#endif

extern "C" __global__ void __launch_bounds__(TC_BLOCK, TC_MIN_BLOCKS) tc_gather(
        const float *src, const TC_INDEX *indices, const TC_OFFSET *offsets, const float *weights,
        const TC_INDEX *rows, float *dst, float *state, tc_long src_rows, tc_long src_stride,
        tc_long dst_rows, tc_long dst_stride, tc_long n_lookups, tc_long n_segments, int dim,
        int mean, float lr, float eps, const tc_long *long_list, tc_long n_long, int long_blocks,
        float *scratch, int *finished) {
    const tc_pass p = {src, indices, offsets, weights, rows, dst, state, src_rows, src_stride,
                       dst_rows, dst_stride, n_lookups, n_segments, dim, mean, lr, eps};
#if TC_STAGED
    if (blockIdx.x < (unsigned)long_blocks) {
        __shared__ __align__(16) tc_stages shared;
        const tc_long slices = (dim + TC_SLICE - 1) / TC_SLICE;
        for (tc_long item = blockIdx.x; item < n_long * slices; item += long_blocks) {
            const tc_long slot = item / slices, segment = long_list[slot];
            if (segment >= 0 && segment < n_segments)
                tc_long_slice(p, shared, slot, segment, (int)(item % slices) * TC_SLICE, scratch,
                              finished);
        }
        return;
    }
#endif
    constexpr int Groups = TC_BLOCK / TC_LANES, Tile = TC_LANES * TC_VECTOR;
    const int lane = threadIdx.x % TC_LANES;
    const int tiles = TC_TILES ? TC_TILES : (dim + Tile - 1) / Tile;
    const tc_long first_segment = (tc_long)(blockIdx.x - long_blocks) * (Groups * TC_BATCH)
        + threadIdx.x / TC_LANES;

#if TC_SINK == 2 && TC_TILES != 1
    // All columns of a row must be summed before the first can be updated. Their gradients stay in
    // registers where the number of tiles is known, else they are summed again.
    constexpr int Kept = TC_TILES ? TC_TILES : 1;
    for (int j = 0; j < TC_BATCH; ++j) {
        const tc_long segment = first_segment + j * Groups;
        if (segment >= n_segments) return;
        tc_long begin, n;
        tc_segment(p, segment, &begin, &n);
        if (n > TC_LONG) continue;
        const tc_long row = rows ? tc_row(rows[segment], dst_rows) : segment;
        const tc_long at = n == 0 ? 0 : indices ? tc_row(indices[begin], src_rows) : begin;
        float new_state = state[row];  // before the shuffles, which the first lane's store is behind
        tc_vector gradients[Kept];
        const auto gradient = [&](int tile) {
            const int column = tile * Tile + lane * TC_VECTOR;
            tc_vector sum;
            TC_COLUMNS sum.v[c] = 0.0f;
            if (n && column < dim)
                sum = tc_sum(p, begin, (int)n, src + column,
                             tc_load(src + at * src_stride + column));
            if (mean) TC_COLUMNS sum.v[c] = tc_scaled(sum.v[c], n);
            return sum;
        };
        tc_counter counter;
        counter.count = 0;
        float squares[Kept];
        _Pragma("unroll") for (int tile = 0; tile < tiles; ++tile) {
            const tc_vector sum = gradient(tile);
            const float square = tc_tile_squares<TC_LANES>(
                sum, tile * Tile + lane * TC_VECTOR < dim);
            if (TC_TILES) {
                gradients[tile % Kept] = sum;
                squares[tile % Kept] = square;
            } else {
                tc_count(counter, square);
            }
        }
        _Pragma("unroll") for (int distance = 1; distance < Kept; distance *= 2)
            _Pragma("unroll") for (int tile = 0; tile < Kept; tile += 2 * distance)
                if (tile + distance < Kept)
                    squares[tile] = __fadd_rn(squares[tile], squares[tile + distance]);
        const float step = tc_adagrad(p, &new_state, TC_TILES ? squares[0] : tc_total(counter));
        if (lane == 0) state[row] = new_state;
        _Pragma("unroll") for (int tile = 0; tile < tiles; ++tile) {
            const int column = tile * Tile + lane * TC_VECTOR;
            if (column >= dim) continue;
            float *target = dst + row * dst_stride + column;
            const tc_vector sum = TC_TILES ? gradients[tile % Kept] : gradient(tile);
            tc_vector x = tc_load_old(target);
            TC_COLUMNS x.v[c] = tc_stepped(x.v[c], step, sum.v[c]);
            tc_store(target, x);
        }
    }
#else
    for (int tile = 0; tile < tiles; ++tile) {
        const int column = tile * Tile + lane * TC_VECTOR;
        const bool present = column < dim;
        tc_long begins[TC_BATCH], targets[TC_BATCH], firsts[TC_BATCH];
        int counts[TC_BATCH];
        tc_vector x[TC_BATCH];
#if TC_SINK
        tc_vector olds[TC_BATCH];
#endif
#if TC_SINK == 2
        float states[TC_BATCH];
#endif
        _Pragma("unroll") for (int j = 0; j < TC_BATCH; ++j) {
            const tc_long segment = first_segment + j * Groups;
            counts[j] = TC_LONG + 1;  // nothing to do
            if (segment < n_segments) {
                tc_long n;
                tc_segment(p, segment, &begins[j], &n);
                if (n <= TC_LONG) counts[j] = (int)n;
                targets[j] = rows ? tc_row(rows[segment], dst_rows) : segment;
            }
        }
        _Pragma("unroll") for (int j = 0; j < TC_BATCH; ++j)
            if (counts[j] && counts[j] <= TC_LONG)
                firsts[j] = indices ? tc_row(indices[begins[j]], src_rows) : begins[j];
        _Pragma("unroll") for (int j = 0; j < TC_BATCH; ++j) {
            if (counts[j] > TC_LONG) continue;
#if TC_SINK
            if (present) olds[j] = tc_load_old(dst + targets[j] * dst_stride + column);
#endif
#if TC_SINK == 2
            states[j] = state[targets[j]];
#endif
            if (present && counts[j]) x[j] = tc_load(src + firsts[j] * src_stride + column);
        }
        _Pragma("unroll") for (int j = 0; j < TC_BATCH; ++j) {
            if (counts[j] > TC_LONG) continue;
            tc_vector sum;
            TC_COLUMNS sum.v[c] = 0.0f;
            if (present && counts[j]) {
                sum = tc_sum(p, begins[j], counts[j], src + column, x[j]);
                if (mean) TC_COLUMNS sum.v[c] = tc_scaled(sum.v[c], counts[j]);
            }
#if TC_SINK == 2
            const float step = tc_adagrad(p, &states[j], tc_tile_squares<TC_LANES>(sum, present));
            if (lane == 0) state[targets[j]] = states[j];
#elif TC_SINK == 1
            const float step = lr;
#endif
#if TC_SINK
            TC_COLUMNS sum.v[c] = tc_stepped(olds[j].v[c], step, sum.v[c]);
#endif
            if (present) tc_store(dst + targets[j] * dst_stride + column, sum);
        }
    }
#endif
}
