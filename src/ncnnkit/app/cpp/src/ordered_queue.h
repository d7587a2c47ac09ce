// A bounded queue between one producer and many workers, whose results come out in the order the items went in.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <utility>

template <typename Item, typename Result>
class OrderedQueue {
public:
    // `sink` gets the results, one at a time and in order. At most `capacity` items are on their way: waiting, at work,
    // or done and waiting for an earlier one.
    OrderedQueue(std::size_t capacity, std::function<void(Result)> sink) : capacity_(capacity), sink_(std::move(sink)) {}

    // Waits while the queue is full.
    void put(Item item)
    {
        std::unique_lock<std::mutex> lock(mutex_);
        room_.wait(lock, [&] { return next_in_ - next_out_ < capacity_; });
        waiting_.emplace_back(next_in_++, std::move(item));
        work_.notify_one();
    }

    // Nothing more will be put.
    void close()
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        closed_ = true;
        work_.notify_all();
    }

    // The next item and its number; waits for one. False when the queue is closed and empty.
    bool take(std::pair<std::size_t, Item>& numbered)
    {
        std::unique_lock<std::mutex> lock(mutex_);
        work_.wait(lock, [&] { return closed_ || !waiting_.empty(); });
        if (waiting_.empty())
            return false;
        numbered = std::move(waiting_.front());
        waiting_.pop_front();
        return true;
    }

    void deliver(std::size_t number, Result result)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        done_.emplace(number, std::move(result));
        for (auto first = done_.find(next_out_); first != done_.end(); first = done_.find(next_out_)) {
            sink_(std::move(first->second));
            done_.erase(first);
            next_out_++;
        }
        room_.notify_one();
    }

private:
    const std::size_t capacity_;
    const std::function<void(Result)> sink_;
    std::mutex mutex_;
    std::condition_variable room_, work_;
    std::deque<std::pair<std::size_t, Item>> waiting_;
    std::map<std::size_t, Result> done_;
    std::size_t next_in_ = 0, next_out_ = 0;
    bool closed_ = false;
};
