#include "difal/threads.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace difal {

namespace {
long process() {
#if defined(__unix__) || defined(__APPLE__)
    return getpid();
#else
    return 0;
#endif
}

std::atomic<bool (*)()> interrupt_check{nullptr};

// Whether this thread has been asked to stop; asks no more often than ten times a second.
bool is_interrupted() {
    using Clock = std::chrono::steady_clock;
    thread_local Clock::time_point next{};
    bool (*check)() = interrupt_check.load(std::memory_order_relaxed);
    const Clock::time_point now = Clock::now();
    if (!check || now < next) return false;
    next = now + std::chrono::milliseconds(100);
    return check();
}
}  // namespace

void throw_if_interrupted() {
    if (is_interrupted()) throw Interrupted{};
}

void set_interrupt_check(bool (*check)()) {
    interrupt_check.store(check);
}

struct ThreadPool::State {
    const long home = process();  // a process forked from it has none of the threads
    std::vector<std::thread> workers;
    std::mutex mutex;
    std::condition_variable start, done;
    const std::function<void(int64_t)>* task = nullptr;  // guarded by mutex, as are the four below
    int64_t count = 0;
    int64_t round = 0;
    int64_t busy = 0;
    bool stop = false;
    std::atomic<int64_t> next{0};
    std::exception_ptr error;

    // Whether the loop was interrupted; only the caller may find that it is.
    bool drain(const std::function<void(int64_t)>& work, int64_t total, bool is_caller) {
        for (;;) {
            if (is_caller && is_interrupted()) {
                next.store(total);
                return true;
            }
            const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
            if (i >= total) return false;
            try {
                work(i);
            } catch (...) {
                std::lock_guard<std::mutex> lock(mutex);
                if (!error) error = std::current_exception();
            }
        }
    }

    void serve() {
        int64_t seen = 0;
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            start.wait(lock, [&] { return stop || round != seen; });
            if (stop) return;
            seen = round;
            const auto* work = task;
            const int64_t total = count;
            lock.unlock();
            drain(*work, total, false);
            lock.lock();
            if (--busy == 0) done.notify_one();
        }
    }
};

ThreadPool::ThreadPool(int threads) : state_(new State) {
    for (int i = 1; i < threads; ++i) state_->workers.emplace_back([s = state_.get()] { s->serve(); });
}

ThreadPool::~ThreadPool() {
    if (process() != state_->home) {
        state_.release();  // threads that are not there can be neither stopped nor joined
        return;
    }
    {
        std::lock_guard<std::mutex> lock(state_->mutex);
        state_->stop = true;
    }
    state_->start.notify_all();
    for (auto& worker : state_->workers) worker.join();
}

int ThreadPool::size() const {
    return static_cast<int>(state_->workers.size()) + 1;
}

void ThreadPool::parallel_for(int64_t count, const std::function<void(int64_t)>& task) {
    State& s = *state_;
    if (s.workers.empty() || count <= 1 || process() != s.home) {
        for (int64_t i = 0; i < count; ++i) {
            if (is_interrupted()) throw Interrupted{};
            task(i);
        }
        return;
    }
    {
        std::lock_guard<std::mutex> lock(s.mutex);
        s.task = &task;
        s.count = count;
        s.next.store(0, std::memory_order_relaxed);
        s.busy = static_cast<int64_t>(s.workers.size());
        ++s.round;
    }
    s.start.notify_all();
    const bool interrupted = s.drain(task, count, true);
    std::unique_lock<std::mutex> lock(s.mutex);
    s.done.wait(lock, [&] { return s.busy == 0; });
    if (interrupted) {
        s.error = nullptr;
        throw Interrupted{};
    }
    if (s.error) {
        std::exception_ptr error = s.error;
        s.error = nullptr;
        std::rethrow_exception(error);
    }
}

}  // namespace difal
