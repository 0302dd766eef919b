// Checks of index arrays, and tensor casting around a library's sort of packed keys.
//
// A key holds a lookup's row in its high bits and its position in the low ones: keys are distinct,
// so any sort gives the stable order. Lookups behind the last bag get the row after the last, and
// sort to the end.

#ifndef TC_INDEX
#define TC_INDEX int
#endif
#ifndef TC_OFFSET
#define TC_OFFSET int
#endif
#ifndef TC_KEY
#define TC_KEY tc_wide            // or unsigned
#endif
#define TC_BLOCK 256
#define TC_TILE 2048           // lookups of a block
#ifndef TC_LONG
#define TC_LONG 256            // as the gather kernel has it
#endif

#define TC_DEVICE static __device__ __forceinline__

typedef long long tc_long;
typedef unsigned long long tc_wide;

// Words that the host reads after a kernel; all start as 0.
enum { TC_BAD, TC_USED, TC_SEGMENTS, TC_N_LONG };

TC_DEVICE tc_long tc_clamp(tc_long x, tc_long limit) { return x < 0 ? 0 : x < limit ? x : limit; }

TC_DEVICE void tc_push_long(tc_long *status, tc_long *list, tc_long capacity, tc_long segment) {
    const tc_long slot = (tc_long)atomicAdd((unsigned long long *)status + TC_N_LONG, 1ull);
    if (slot < capacity) list[slot] = segment;
}

TC_DEVICE bool tc_bad_offset(const TC_OFFSET *offsets, tc_long i, tc_long n_lookups,
                             tc_long longest) {
    const tc_long here = offsets[i], before = i ? (tc_long)offsets[i - 1] : 0;
    return i ? here < before || here > n_lookups || here - before > longest : here != 0;
}

// What each array must be, all in one pass; an array that is null is not checked.
// offsets: 0 first, never decreasing, at most n_lookups, at most `longest` apart. indices: below
// index_limit, as far as the last offset. rows: strictly increasing, below row_limit. Segments of
// more than TC_LONG lookups are listed.
extern "C" __global__ void __launch_bounds__(TC_BLOCK) tc_check(
        const TC_OFFSET *offsets, tc_long n_offsets, tc_long n_lookups, tc_long longest,
        const TC_INDEX *indices, tc_long n_indices, tc_long index_limit,
        const TC_INDEX *rows, tc_long n_rows, tc_long row_limit,
        tc_long *status, tc_long *long_list, tc_long capacity) {
    const tc_long step = (tc_long)gridDim.x * TC_BLOCK;
    const tc_long start = (tc_long)blockIdx.x * TC_BLOCK + threadIdx.x;
    bool bad = false;
    tc_long used = n_indices;
    if (offsets) {
        used = tc_clamp(offsets[n_offsets - 1], n_lookups);
        for (tc_long i = start; i < n_offsets; i += step) {
            bad |= tc_bad_offset(offsets, i, n_lookups, longest);
            if (i && long_list && (tc_long)offsets[i] - (tc_long)offsets[i - 1] > TC_LONG)
                tc_push_long(status, long_list, capacity, i - 1);
        }
        if (start == 0) status[TC_USED] = used;
    }
    if (indices) {
        const tc_long n = used < n_indices ? used : n_indices;
        for (tc_long i = start; i < n; i += step) {
            const tc_long x = indices[i];
            bad |= x < 0 || x >= index_limit;
        }
    }
    if (rows)
        for (tc_long i = start; i < n_rows; i += step) {
            const tc_long x = rows[i];
            bad |= x < 0 || x >= row_limit || (i && x <= (tc_long)rows[i - 1]);
        }
    if (bad) status[TC_BAD] = 1;
}

// The bag of lookup i is the last one in [low, high] that starts at it or before it.
TC_DEVICE tc_long tc_bag(const TC_OFFSET *offsets, tc_long low, tc_long high, tc_long i) {
    while (low < high) {
        const tc_long middle = (low + high + 1) / 2;
        if ((tc_long)offsets[middle] <= i) low = middle; else high = middle - 1;
    }
    return low;
}

// Finds the bag of each lookup, [used]; with `keys` also checks the batch and packs a key for each
// of n_lookups.
extern "C" __global__ void __launch_bounds__(TC_BLOCK) tc_keys(
        const TC_INDEX *indices, tc_long n_lookups, const TC_OFFSET *offsets, tc_long n_bags,
        tc_long num_rows, int position_bits, TC_KEY *keys, int *bags, tc_long *status) {
    __shared__ tc_long ends[2];
    const tc_long tile = (tc_long)blockIdx.x * TC_TILE;
    const tc_long used = tc_clamp(offsets[n_bags], n_lookups);
    bool bad = false;
    if (threadIdx.x < 2 && n_bags) {
        const tc_long i = threadIdx.x ? tile + TC_TILE - 1 : tile;
        ends[threadIdx.x] = tc_bag(offsets, 0, n_bags - 1, i);
    }
    __syncthreads();
    for (tc_long i = tile + threadIdx.x; i < tile + TC_TILE && i < n_lookups; i += TC_BLOCK) {
        tc_long row = num_rows;
        if (i < used) {
            if (bags && n_bags) bags[i] = (int)tc_bag(offsets, ends[0], ends[1], i);
            if (keys) {
                row = indices[i];
                if (row < 0 || row >= num_rows) { bad = true; row = num_rows; }
            }
        }
        if (keys) keys[i] = (TC_KEY)row << position_bits | (TC_KEY)i;
    }
    if (!keys) return;
    const tc_long step = (tc_long)gridDim.x * TC_BLOCK;
    for (tc_long i = (tc_long)blockIdx.x * TC_BLOCK + threadIdx.x; i <= n_bags; i += step)
        bad |= tc_bad_offset(offsets, i, n_lookups, n_lookups);
    if (tile == 0 && threadIdx.x == 0) status[TC_USED] = used;
    if (bad) status[TC_BAD] = 1;
}

TC_DEVICE bool tc_starts_run(const TC_KEY *keys, tc_long i, tc_long used, int position_bits) {
    return i < used && (i == 0 || keys[i] >> position_bits != keys[i - 1] >> position_bits);
}

// Counts the runs of equal rows that start in each tile of sorted keys.
extern "C" __global__ void __launch_bounds__(TC_BLOCK) tc_count_runs(
        const TC_KEY *keys, int position_bits, const tc_long *status, int *counts) {
    const tc_long used = status[TC_USED], tile = (tc_long)blockIdx.x * TC_TILE;
    __shared__ int total;
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    int n = 0;
    for (tc_long i = tile + threadIdx.x; i < tile + TC_TILE; i += TC_BLOCK)
        n += __popc(__ballot_sync(0xffffffffu, tc_starts_run(keys, i, used, position_bits)));
    if (threadIdx.x % 32 == 0) atomicAdd(&total, n);
    __syncthreads();
    if (threadIdx.x == 0) counts[blockIdx.x] = total;
}

// Writes the casting from sorted keys; outputs have room for one segment a lookup.
extern "C" __global__ void __launch_bounds__(TC_BLOCK) tc_write_runs(
        const TC_KEY *keys, int position_bits, const int *counts, const int *bag_of,
        const float *weight_of, TC_INDEX *bags, TC_INDEX *positions, float *weights,
        TC_INDEX *segment_offsets, TC_INDEX *rows, tc_long *status, tc_long *long_list,
        tc_long capacity) {
    __shared__ tc_long before;
    __shared__ int in_warp[TC_BLOCK / 32];
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const tc_long used = status[TC_USED], tile = (tc_long)blockIdx.x * TC_TILE;
    if (thread == 0) before = 0;
    __syncthreads();
    tc_long mine = 0;
    for (unsigned i = thread; i < blockIdx.x; i += TC_BLOCK) mine += counts[i];
    if (mine) atomicAdd((unsigned long long *)&before, (unsigned long long)mine);
    __syncthreads();
    tc_long number = before;  // of the first run that starts in this round
    for (int round = 0; round < TC_TILE; round += TC_BLOCK) {
        const tc_long i = tile + round + thread;
        const bool starts = tc_starts_run(keys, i, used, position_bits);
        const unsigned ballot = __ballot_sync(0xffffffffu, starts);
        if (lane == 0) in_warp[warp] = __popc(ballot);
        __syncthreads();
        tc_long segment = number + __popc(ballot & ((1u << lane) - 1));
        for (int w = 0; w < TC_BLOCK / 32; ++w) {
            if (w < warp) segment += in_warp[w];
            number += in_warp[w];
        }
        __syncthreads();
        if (i >= used) continue;
        const TC_KEY key = keys[i], row = key >> position_bits;
        const tc_long position = (tc_long)(key & (((TC_KEY)1 << position_bits) - 1));
        if (bags) bags[i] = (TC_INDEX)bag_of[position];
        positions[i] = (TC_INDEX)position;
        if (weights) weights[i] = weight_of[position];
        if (!starts) continue;
        segment_offsets[segment] = (TC_INDEX)i;
        rows[segment] = (TC_INDEX)row;
        if (long_list && i + TC_LONG < used && keys[i + TC_LONG] >> position_bits == row)
            tc_push_long(status, long_list, capacity, segment);
    }
    if (thread == 0 && blockIdx.x == gridDim.x - 1) {
        segment_offsets[number] = (TC_INDEX)used;
        status[TC_SEGMENTS] = number;
    }
}
