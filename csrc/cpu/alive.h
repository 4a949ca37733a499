// The entries of a symmetric kernel matrix that are still alive: a list per point, in blocks from one pool.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace difal {

class AliveEntries {
  public:
    static constexpr int32_t kWidth = 30;
    struct Block {
        int32_t next;  // index of the next block, or -1
        int32_t size;
        int32_t point[kWidth];
        float value[kWidth];
    };

    AliveEntries(int64_t points, int64_t capacity) : head_(points, -1), tail_(points, -1) {
        capacity_ = capacity / kWidth + points + 1;  // in blocks; pages that are never written cost nothing
        const size_t page = size_t{1} << 21;
        const size_t bytes = (capacity_ * sizeof(Block) + page - 1) / page * page;
        blocks_.reset(static_cast<Block*>(std::aligned_alloc(page, bytes)));
        if (!blocks_) throw std::bad_alloc();
#if defined(__linux__)
        madvise(blocks_.get(), bytes, MADV_HUGEPAGE);  // lists are read in no order that small pages would like
#endif
    }

    // Appends to point i's list. Different threads may append to different points' lists.
    void add(int64_t i, int32_t point, float value) {
        int32_t at = tail_[i];
        if (at < 0 || blocks_[at].size == kWidth) {
            const int64_t fresh = used_.fetch_add(1, std::memory_order_relaxed);
            if (fresh >= capacity_) return;  // full(): whoever gathers must give up
            blocks_[fresh].next = -1;
            blocks_[fresh].size = 0;
            (at < 0 ? head_[i] : blocks_[at].next) = static_cast<int32_t>(fresh);
            at = tail_[i] = static_cast<int32_t>(fresh);
        }
        Block& block = blocks_[at];
        block.point[block.size] = point;
        block.value[block.size++] = value;
    }

    bool full() const { return used_.load(std::memory_order_relaxed) > capacity_; }

    int64_t count() const {
        int64_t total = 0;
        for (int64_t i = 0; i < static_cast<int64_t>(head_.size()); ++i) total += length(i);
        return total;
    }

    int64_t length(int64_t i) const {
        int64_t total = 0;
        for (int32_t at = head_[i]; at >= 0; at = blocks_[at].next) total += blocks_[at].size;
        return total;
    }

    // visit(point, value) for each entry of i's list; entries for which it returns false are dropped.
    template <typename Visit>
    void filter(int64_t i, Visit&& visit) {
        for (int32_t at = head_[i]; at >= 0; at = blocks_[at].next) {
            Block& block = blocks_[at];
            if (block.next >= 0) {
                const char* next = reinterpret_cast<const char*>(&blocks_[block.next]);
                for (size_t line = 0; line < sizeof(Block); line += 64) __builtin_prefetch(next + line);
            }
            int32_t kept = 0;
            for (int32_t e = 0; e < block.size; ++e) {
                const int32_t point = block.point[e];
                const float value = block.value[e];
                if (!visit(point, value)) continue;
                block.point[kept] = point;
                block.value[kept++] = value;
            }
            block.size = kept;
        }
    }

    // Empties i's list; its blocks are not used again.
    void clear(int64_t i) { head_[i] = tail_[i] = -1; }

  private:
    struct Free {
        void operator()(Block* blocks) const { std::free(blocks); }
    };
    std::unique_ptr<Block[], Free> blocks_;
    int64_t capacity_;
    std::atomic<int64_t> used_{0};
    std::vector<int32_t> head_, tail_;
};

}  // namespace difal
