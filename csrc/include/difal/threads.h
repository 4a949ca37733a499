// A pool of threads that runs many short parallel loops without starting threads again. In a process forked while it
// lives it runs everything in the caller.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace difal {

class ThreadPool {
  public:
    // `threads` in all, the caller's among them; 1 runs everything in the caller.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const;

    // Calls task(i) for each i in [0, count), in any order, on any thread, and returns when all are done.
    // Work must be cut into tasks without looking at size(), so that results do not depend on it. The first
    // exception of a task is thrown again here. Throws Interrupted, with some tasks left undone, where the check of
    // `set_interrupt_check` asks for it: what the loop worked on is then of no use.
    void parallel_for(int64_t count, const std::function<void(int64_t)>& task);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

struct Interrupted {};

// Throws Interrupted where the check below asks for it: for long loops that are not parallel.
void throw_if_interrupted();

// `check` is called about ten times a second by threads that are in a parallel loop as its caller or call
// `throw_if_interrupted`; true ends what they do.
void set_interrupt_check(bool (*check)());

}  // namespace difal
