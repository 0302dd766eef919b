// CUDA's threads on one CPU thread, for the kernels' own text.
//
// Blocks run one after the other; the threads of a block are coroutines that take turns at
// barriers, shuffles and ballots. What a kernel copies to shared memory asynchronously arrives when
// it waits for it, not before. Nothing is said about speed, or about the memory model.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <setjmp.h>
#include <ucontext.h>
#include <utility>
#include <vector>

#define TC_EMULATED
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))

struct float4 { float x, y, z, w; };
struct tc_dim3 { unsigned x = 1, y = 1, z = 1; };
static tc_dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

struct Copy { float *to; const float *from; size_t n; };

struct Barrier { int count = 0; long generation = 0; };

struct Thread {
    ucontext_t context;  // only to start: it asks the system at every switch, the jump does not
    jmp_buf jump;
    std::vector<char> stack;
    bool finished;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> pending;
};

static std::vector<Thread> threads(1024);
static std::map<std::pair<int, unsigned>, Barrier> barriers;
static jmp_buf scheduler;
static std::function<void()> body;
static unsigned current, alive;
static long progress;
static double slots[1024];

static void yield() {
    if (!_setjmp(threads[current].jump)) _longjmp(scheduler, 1);
    threadIdx.x = current;
}

static void meet(int which, unsigned mask, int members) {
    Barrier &barrier = barriers[{which, mask}];
    const long generation = barrier.generation;
    if (++barrier.count == members) {
        barrier.count = 0;
        ++barrier.generation;
        ++progress;
    } else {
        while (barrier.generation == generation) yield();
    }
}

static void meet_warp(unsigned mask) {
    if (!(mask >> threadIdx.x % 32 & 1)) {
        std::fprintf(stderr, "thread %u is not in its mask %x\n", threadIdx.x, mask);
        std::abort();
    }
    meet((int)threadIdx.x / 32, mask, __builtin_popcount(mask));
}

template <class T> static T exchange(unsigned mask, T value, int distance) {
    std::memcpy(&slots[threadIdx.x], &value, sizeof value);
    meet_warp(mask);
    T other;
    std::memcpy(&other, &slots[threadIdx.x ^ distance], sizeof other);
    meet_warp(mask);
    return other;
}

static void enter() {
    for (;;) {  // one turn for each block
        body();
        threads[current].finished = true;
        --alive;
        ++progress;
        yield();
    }
}

static void resume(Thread &thread) {
    if (_setjmp(scheduler)) return;
    if (!thread.stack.empty()) _longjmp(thread.jump, 1);
    thread.stack.resize(1 << 16);
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    makecontext(&thread.context, enter, 0);
    setcontext(&thread.context);
}

static void run_block() {
    const unsigned n = blockDim.x;
    barriers.clear();
    alive = n;
    for (unsigned t = 0; t < n; ++t) {
        Thread &thread = threads[t];
        thread.finished = false;
        thread.groups.clear();
        thread.pending.clear();
    }
    while (alive) {
        const long before = progress;
        for (unsigned i = 0; i < n; ++i) {
            const unsigned t = blockIdx.x % 2 ? n - 1 - i : i;  // no order is promised
            if (threads[t].finished) continue;
            current = threadIdx.x = t;
            resume(threads[t]);
        }
        if (progress == before) {
            std::fprintf(stderr, "%u threads of block %u wait for ever\n", alive, blockIdx.x);
            std::abort();
        }
    }
}

template <class... A, size_t... I>
static int run(void (*kernel)(A...), unsigned grid, unsigned block, void **arguments,
               const int *sizes, int n, std::index_sequence<I...>) {
    const int expected[] = {(int)sizeof(A)...};
    if (n != (int)sizeof...(A)) return -1;
    for (int i = 0; i < n; ++i) if (sizes[i] != expected[i]) return i + 1;
    gridDim.x = grid;
    blockDim.x = block;
    body = [&] { kernel(*(std::remove_reference_t<A> *)arguments[I]...); };
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x) run_block();
    return 0;
}

template <class... A>
static int launch(void (*kernel)(A...), unsigned grid, unsigned block, void **arguments,
                  const int *sizes, int n) {
    return run(kernel, grid, block, arguments, sizes, n, std::index_sequence_for<A...>());
}

}  // namespace emulation

// Returns 0, or what is wrong with the arguments.
#define TC_EMULATE(kernel) \
    extern "C" int emulate_##kernel(unsigned grid, unsigned block, void **arguments, \
                                    const int *sizes, int n) { \
        return emulation::launch(kernel, grid, block, arguments, sizes, n); \
    }

static inline void __syncthreads() { emulation::meet(-1, 0, (int)emulation::alive); }
static inline void __threadfence() {}
static inline float __shfl_xor_sync(unsigned mask, float value, int distance) {
    return emulation::exchange(mask, value, distance);
}
static inline unsigned __ballot_sync(unsigned mask, bool predicate) {
    const unsigned warp = threadIdx.x / 32 * 32;
    emulation::slots[threadIdx.x] = predicate;
    emulation::meet_warp(mask);
    unsigned ballot = 0;
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1 && emulation::slots[warp + lane]) ballot |= 1u << lane;
    emulation::meet_warp(mask);
    return ballot;
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T __ldcs(const T *p) { return *p; }
template <class T> static inline T __ldcg(const T *p) { return *p; }
template <class T> static inline void __stcs(T *p, T x) { *p = x; }
template <class T> static inline T atomicAdd(T *p, T x) { T old = *p; *p += x; return old; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return std::sqrt(a); }
static inline float __int_as_float(int bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

static inline void tc_copy_bytes(float *to, const float *from, size_t n) {
    emulation::threads[emulation::current].pending.push_back({to, from, n});
}
#define tc_copy_row(to, from) tc_copy_bytes(to, from, 4 * TC_VECTOR)
#define tc_copy_one(to, from) tc_copy_bytes(to, from, 4)
static inline void tc_commit() {
    emulation::Thread &thread = emulation::threads[emulation::current];
    thread.groups.push_back(std::move(thread.pending));
    thread.pending.clear();
}
template <int Newest> static void tc_wait() {
    auto &groups = emulation::threads[emulation::current].groups;
    while (groups.size() > Newest) {
        for (const emulation::Copy &copy : groups.front())
            std::memcpy(copy.to, copy.from, copy.n);
        groups.erase(groups.begin());
    }
}
