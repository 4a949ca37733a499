// Runs CUDA kernels on the host, for tests: every thread of a launch is a fibre, fibres change at barriers and warp
// operations only, and in an order that differs from launch to launch, so that a forgotten barrier shows. A thread
// that waits for one that never comes is an error, and so is a warp operation that not all 32 lanes join.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __restrict__ __restrict
#define __launch_bounds__(...)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3() = default;
    dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace emulator {

enum class State { ready, at_block, at_warp, done };

struct Warp {
    int arrived = 0;
    unsigned generation = 0;
    uint64_t slots[2][32] = {};
};

struct Block {
    dim3 index;
    int arrived = 0, threads = 0;
    std::vector<Warp> warps;
    std::unique_ptr<char[]> shared;
};

struct Fibre {
    jmp_buf where;
    bool started = false;
    State state = State::ready;
    unsigned thread = 0;
    Block* block = nullptr;
};

struct Machine {
    jmp_buf scheduler;
    ucontext_t start, back;
    std::vector<Fibre> fibres;
    std::vector<std::unique_ptr<char[]>> stacks;
    Fibre* current = nullptr;
    void (*body)(void*) = nullptr;
    void* argument = nullptr;
    uint64_t seed = 0x9E3779B97F4A7C15ull;
    dim3 thread, block, block_size, grid_size;

    uint64_t random() {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        return seed;
    }
};

inline Machine machine;
constexpr size_t kStack = 1 << 17;
inline int multiprocessors = 3;

// Leaves the running fibre; it goes on when the scheduler picks it again.
inline void leave() {
    if (_setjmp(machine.current->where) == 0) _longjmp(machine.scheduler, 1);
}

inline void enter() {
    machine.body(machine.argument);
    machine.current->state = State::done;
    _longjmp(machine.scheduler, 1);
}

// Runs or resumes one fibre until it leaves.
inline void resume(Fibre& fibre, size_t at) {
    machine.current = &fibre;
    machine.thread = dim3(fibre.thread, 0, 0);
    machine.block = fibre.block->index;
    if (_setjmp(machine.scheduler) != 0) return;
    if (fibre.started) _longjmp(fibre.where, 1);
    fibre.started = true;
    while (machine.stacks.size() <= at) machine.stacks.emplace_back(new char[kStack]);
    getcontext(&machine.start);
    machine.start.uc_stack.ss_sp = machine.stacks[at].get();
    machine.start.uc_stack.ss_size = kStack;
    machine.start.uc_link = nullptr;
    makecontext(&machine.start, enter, 0);
    setcontext(&machine.start);
}

inline void run_together(std::vector<Block>& blocks) {
    Machine& m = machine;
    m.fibres.clear();
    for (Block& block : blocks) {
        for (int t = 0; t < block.threads; ++t) {
            m.fibres.emplace_back();
            m.fibres.back().thread = t;
            m.fibres.back().block = &block;
        }
    }
    std::vector<size_t> order(m.fibres.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    for (;;) {
        for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[m.random() % i]);
        bool ran = false, all_done = true;
        for (size_t i : order) {
            all_done &= m.fibres[i].state == State::done;
            if (m.fibres[i].state != State::ready) continue;
            resume(m.fibres[i], i);
            ran = true;
        }
        if (all_done) return;
        if (!ran) throw std::runtime_error("emulator: threads wait at a barrier that not all of them reach");
    }
}

inline void launch(dim3 grid, int threads, size_t shared, bool together, void (*body)(void*), void* argument) {
    Machine& m = machine;
    if (threads % 32 != 0 || threads < 32 || threads > 1024) throw std::runtime_error("emulator: odd block size");
    m.body = body;
    m.argument = argument;
    m.block_size = dim3(threads);
    m.grid_size = grid;
    std::vector<dim3> all;
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
            for (unsigned x = 0; x < grid.x; ++x) all.push_back(dim3(x, y, z));
        }
    }
    for (size_t i = all.size(); i > 1; --i) std::swap(all[i - 1], all[m.random() % i]);
    const size_t step = together ? all.size() : 1;
    for (size_t first = 0; first < all.size(); first += step) {
        std::vector<Block> blocks(step);
        for (size_t b = 0; b < step; ++b) {
            blocks[b].index = all[first + b];
            blocks[b].threads = threads;
            blocks[b].warps.resize(threads / 32);
            blocks[b].shared.reset(new char[shared + 16]);
            std::memset(blocks[b].shared.get(), 0xff, shared + 16);  // NaN, or a huge index
        }
        run_together(blocks);
    }
}

// Deposits a word and waits for the other lanes; the words of all 32.
inline const uint64_t* exchange(uint64_t word) {
    Fibre* self = machine.current;
    Warp& warp = self->block->warps[self->thread / 32];
    const unsigned turn = warp.generation & 1;
    warp.slots[turn][self->thread % 32] = word;
    if (++warp.arrived == 32) {
        warp.arrived = 0;
        ++warp.generation;
        for (Fibre& f : machine.fibres) {
            if (f.block == self->block && f.thread / 32 == self->thread / 32 && f.state == State::at_warp)
                f.state = State::ready;
        }
    } else {
        self->state = State::at_warp;
        leave();
    }
    return warp.slots[turn];
}

template <typename T>
uint64_t to_word(T v) {
    static_assert(sizeof(T) <= 8, "");
    uint64_t word = 0;
    std::memcpy(&word, &v, sizeof v);
    return word;
}
template <typename T>
T from_word(uint64_t word) {
    T v;
    std::memcpy(&v, &word, sizeof v);
    return v;
}

}  // namespace emulator

#define threadIdx (emulator::machine.thread)
#define blockIdx (emulator::machine.block)
#define blockDim (emulator::machine.block_size)
#define gridDim (emulator::machine.grid_size)

inline void __syncthreads() {
    emulator::Fibre* self = emulator::machine.current;
    emulator::Block& block = *self->block;
    if (++block.arrived == block.threads) {
        block.arrived = 0;
        for (emulator::Fibre& f : emulator::machine.fibres) {
            if (f.block == &block && f.state == emulator::State::at_block) f.state = emulator::State::ready;
        }
    } else {
        self->state = emulator::State::at_block;
        emulator::leave();
    }
}
inline void __syncwarp(unsigned = 0xffffffffu) {
    emulator::exchange(0);
}
inline void __threadfence() {}

template <typename T>
T __shfl_xor_sync(unsigned, T v, int mask) {
    const int own = emulator::machine.current->thread % 32;
    return emulator::from_word<T>(emulator::exchange(emulator::to_word(v))[own ^ mask]);
}
template <typename T>
T __shfl_sync(unsigned, T v, int from) {
    return emulator::from_word<T>(emulator::exchange(emulator::to_word(v))[from % 32]);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
    const uint64_t* words = emulator::exchange(predicate != 0);
    unsigned mask = 0;
    for (int i = 0; i < 32; ++i) mask |= static_cast<unsigned>(words[i]) << i;
    return mask;
}
inline int __any_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) != 0;
}
inline int __popc(unsigned v) {
    return __builtin_popcount(v);
}
inline int __ffs(unsigned v) {
    return __builtin_ffs(static_cast<int>(v));
}

template <typename T, typename U>
T atomicAdd(T* at, U value) {
    const T old = *at;
    *at = old + static_cast<T>(value);
    return old;
}
template <typename T>
T atomicMax(T* at, T value) {
    const T old = *at;
    *at = old > value ? old : value;
    return old;
}
template <typename T>
T atomicMin(T* at, T value) {
    const T old = *at;
    *at = old < value ? old : value;
    return old;
}

namespace difal {
namespace cuda {

inline char* shared_memory() {
    const uintptr_t at = reinterpret_cast<uintptr_t>(emulator::machine.current->block->shared.get());
    return reinterpret_cast<char*>((at + 15) / 16 * 16);
}

inline void wait_a_little() {
    emulator::leave();
}

// The device's instructions with the largest error that they may have, always to the same side: the worst case of a
// sum.
inline float exp2_approx(float x) {
    if (x == 0) return 1;
    const float y = static_cast<float>(std::exp2(static_cast<double>(x)) * (1 + 0x1p-22));
    return y < 0x1p-126f ? 0 : y;
}
inline float reciprocal_approx(float x) {
    return static_cast<float>(1 / static_cast<double>(x) * (1 + 0x1p-23));
}
inline float max_or_nan(float a, float b) {
    return a != a || b != b ? NAN : a > b ? a : b;
}

// As a tree, like the device's, in one exchange.
inline double warp_sum(double v) {
    const uint64_t* words = emulator::exchange(emulator::to_word(v));
    double all[32];
    for (int i = 0; i < 32; ++i) all[i] = emulator::from_word<double>(words[i]);
    for (int offset = 16; offset > 0; offset /= 2) {
        for (int i = 0; i < offset; ++i) all[i] += all[i + offset];
    }
    return all[0];
}

template <typename... P, typename... A>
void launch(void (*kernel)(P...), const Queue&, dim3 grid, int threads, size_t shared, bool together, A... args) {
    struct Call {
        void (*kernel)(P...);
        std::tuple<P...> values;
    } call{kernel, std::tuple<P...>(args...)};
    emulator::launch(
        grid, threads, shared, together,
        [](void* data) {
            Call& c = *static_cast<Call*>(data);
            std::apply(c.kernel, c.values);
        },
        &call);
}

template <typename... P>
int resident_blocks(void (*)(P...), const Queue&, int, size_t) {
    return emulator::multiprocessors;
}

template <typename... P>
std::string why_not(void (*)(P...), int) {
    return "";
}

inline void fill_bytes(const Queue&, void* at, int value, size_t bytes) {
    std::memset(at, value, bytes);
}

}  // namespace cuda
}  // namespace difal
