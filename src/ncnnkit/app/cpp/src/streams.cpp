#include "streams.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>

#include "failure.h"
#include "frames.h"
#include "json.h"
#include "predictor.h"

namespace {

using Clock = std::chrono::steady_clock;

struct Lane {
    bool gpu;
    Cluster cluster; // of the thread, also where it only feeds the GPU
    int threads;
};

// How the machine is split among workers.
using Split = std::vector<Lane>;


struct Name {
    const char* text;
    Cluster cluster;
};
constexpr Name kNames[] = {{"all", Cluster::all}, {"big", Cluster::big}, {"little", Cluster::little}};

Lane parse_lane(const std::string& text)
{
    if (text == "gpu")
        return {true, Cluster::all, 1};
    const std::size_t colon = text.find(':');
    for (const Name& name : kNames) {
        if (text.substr(0, colon) != name.text)
            continue;
        const int available = cores(name.cluster);
        if (available == 0)
            throw Failure("--streams: this machine has no " + std::string(name.text) + " cores");
        const int threads = colon == std::string::npos ? available : std::atoi(text.c_str() + colon + 1);
        if (threads >= 1 && threads <= 256)
            return {false, name.cluster, threads};
    }
    throw UsageError("--streams: '" + text + "' is no worker: big:4, little:4, all:8 or gpu");
}

Split joined(Split first, const Split& second)
{
    first.insert(first.end(), second.begin(), second.end());
    return first;
}

// The ways to use a cluster's cores: one worker with all of them, workers of two, workers of one.
std::vector<Split> ways(Cluster cluster)
{
    const int available = cores(cluster);
    std::vector<Split> found;
    for (int threads : {available, 2, 1})
        if (threads >= 1 && threads <= available)
            found.push_back(Split(static_cast<std::size_t>(available / threads), Lane{false, cluster, threads}));
    return found;
}


// As big:4,little:4,gpu. Throws UsageError.
Split parse_split(const std::string& text)
{
    Split split;
    std::istringstream stream(text);
    for (std::string lane; std::getline(stream, lane, ',');)
        split.push_back(parse_lane(lane));
    return split;
}

std::string to_text(const Split& split)
{
    std::string text;
    for (const Lane& lane : split) {
        text += text.empty() ? "" : ",";
        const auto is_it = [&](const Name& name) { return name.cluster == lane.cluster; };
        text += lane.gpu ? "gpu" : std::find_if(kNames, kNames + 3, is_it)->text + (":" + std::to_string(lane.threads));
    }
    return text;
}

// Splits worth measuring on this machine; the first is one stream, as `--cluster` and `--threads` ask for it.
std::vector<Split> candidates(Cluster cluster, int threads, bool gpu)
{
    std::vector<Split> found = {{{false, cluster, threads}}};
    const bool one_kind = cores(Cluster::little) == 0 || cores(Cluster::big) == cores(Cluster::all);
    for (const Split& big : ways(one_kind ? cluster : Cluster::big)) {
        found.push_back(big);
        if (!one_kind)
            for (const Split& little : ways(Cluster::little))
                found.push_back(joined(big, little));
    }
    if (gpu) {
        const std::vector<Split> on_cpu = found;
        found.push_back({{true, Cluster::all, 1}});
        for (const Split& split : on_cpu)
            found.push_back(joined(split, {{true, Cluster::all, 1}}));
    }
    std::set<std::string> seen;
    const auto again = [&](const Split& split) { return !seen.insert(to_text(split)).second; };
    found.erase(std::remove_if(found.begin(), found.end(), again), found.end());
    return found;
}

// A bounded queue between one producer and many workers, whose results come out in the order the items went in.
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

volatile std::sig_atomic_t interrupted = 0;

using Queue = OrderedQueue<Frame, Answer>;

// Engines by what they are loaded for: workers with as many threads share one.
class Engines {
public:
    Engines(const ModelFiles& files, const Settings& settings) : files_(files), settings_(settings) {}

    const Engine& of(const Lane& lane)
    {
        std::unique_ptr<Engine>& engine = engines_[{lane.gpu, lane.threads}];
        if (!engine) {
            Settings settings = settings_;
            settings.threads = lane.threads;
            if (!lane.gpu)
                settings.gpu = Gpu::none;
            else if (settings.gpu == Gpu::none)
                settings.gpu = Gpu::real;
            engine = std::make_unique<Engine>(files_, settings);
        }
        return *engine;
    }

private:
    const ModelFiles& files_;
    const Settings settings_;
    std::map<std::pair<bool, int>, std::unique_ptr<Engine>> engines_;
};

// The threads of a split. They end when the queue is closed and empty; whatever happens, they are waited for.
class Workers {
public:
    Workers(const Split& split, Engines& engines, Queue& queue) : queue_(queue)
    {
        std::vector<const Engine*> loaded; // before any thread starts: this may fail
        for (const Lane& lane : split)
            loaded.push_back(&engines.of(lane));
        for (std::size_t i = 0; i < split.size(); i++)
            threads_.emplace_back([this, lane = split[i], engine = loaded[i]] {
                {
                    const std::lock_guard<std::mutex> lock(affinity_);
                    stay_on(lane.cluster);
                }
                Predictor predict(*engine);
                for (std::pair<std::size_t, Frame> numbered; queue_.take(numbered);)
                    queue_.deliver(numbered.first, answer(predict, numbered.second));
            });
    }
    ~Workers()
    {
        queue_.close();
        for (std::thread& thread : threads_)
            thread.join();
    }
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

private:
    Queue& queue_;
    std::mutex affinity_;
    std::vector<std::thread> threads_;
};

std::size_t capacity(const Split& split)
{
    return 4 * split.size();
}

// Images per second of a split: the frames go round and round for a while, of which the beginning does not count.
double measure(const Split& split, Engines& engines, const std::vector<Frame>& frames)
{
    constexpr double warm_up = 0.2, seconds = 0.8;
    const auto start = Clock::now();
    const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
    std::size_t counted = 0;
    double from = 0.0, to = 0.0;
    Queue queue(capacity(split), [&](const Answer& answer) {
        to = elapsed();
        if (!answer.failure.empty())
            return;
        if (to < warm_up || from == 0.0)
            from = to; // the time of the last answer that does not count
        else
            counted++;
    });
    {
        Workers workers(split, engines, queue);
        for (std::size_t i = 0; !interrupted && (i < frames.size() || elapsed() < warm_up + seconds); i++)
            queue.put(frames[i % frames.size()]);
    }
    return counted ? static_cast<double>(counted) / (to - from) : 0.0;
}

struct Measured {
    Split split;
    double images_per_second;
};

// The splits worth trying, each with its median of three turns; the turns of all are interleaved.
std::vector<Measured> measure_all(const std::vector<Split>& splits, Engines& engines,
                                  const std::vector<Frame>& frames)
{
    std::vector<std::vector<double>> turns(splits.size());
    for (int turn = 0; turn < 3; turn++)
        for (std::size_t i = 0; i < splits.size(); i++)
            turns[i].push_back(measure(splits[i], engines, frames));
    std::vector<Measured> measured;
    for (std::size_t i = 0; i < splits.size(); i++) {
        std::sort(turns[i].begin(), turns[i].end());
        measured.push_back({splits[i], turns[i][1]});
    }
    return measured;
}

std::string json(const std::vector<Measured>& measured)
{
    std::string out;
    for (const Measured& row : measured)
        out += (out.empty() ? "" : ", ")
            + Json().add("split", quoted(to_text(row.split))).add("images_per_s", row.images_per_second).text();
    return "[" + out + "]";
}

} // namespace

int stream(const Options& options, const Settings& settings, const ModelFiles& files)
{
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    sigaction(SIGINT, &action, nullptr); // without SA_RESTART: a read from a camera's pipe ends, too
    sigaction(SIGTERM, &action, nullptr);

    Split split = parse_split(options.split);
    const std::unique_ptr<Source> source = open_source(options);
    Engines engines(files, settings);
    std::vector<Frame> first; // read ahead, to measure with
    std::vector<Measured> measured;
    if (split.empty()) {
        for (Frame frame; first.size() < 8 && source->next(frame);)
            first.push_back(std::move(frame));
        if (first.empty())
            throw Failure(options.input + ": holds no images");
        measured = measure_all(candidates(options.cluster, settings.threads, settings.gpu != Gpu::none), engines, first);
        const auto slower = [](const Measured& a, const Measured& b) { return a.images_per_second < b.images_per_second; };
        const auto fastest = std::max_element(measured.begin(), measured.end(), slower);
        split = fastest->split;
        for (const Measured& row : measured)
            if (fastest->images_per_second > 0) // else none of them is an image
                std::fprintf(stderr, "%-24s %8s images/s, %.2f of one stream\n", to_text(row.split).c_str(),
                         rounded(row.images_per_second).c_str(), row.images_per_second / measured[0].images_per_second);
    }

    std::size_t count = 0, failures = 0;
    const auto start = Clock::now();
    {
        Queue queue(capacity(split), [&](const Answer& answer) {
            print(answer, files.labels, options);
            count++;
            failures += !answer.failure.empty();
        });
        Workers workers(split, engines, queue);
        for (Frame& frame : first)
            if (!interrupted)
                queue.put(std::move(frame));
        for (Frame frame; !interrupted && source->next(frame);)
            queue.put(std::move(frame));
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    const double rate = static_cast<double>(count - failures) / seconds;
    if (options.json)
        std::puts(Json().add("images", static_cast<double>(count)).add("failures", static_cast<double>(failures))
                      .add("seconds", seconds).add("images_per_s", rate)
                      .add("split", quoted(to_text(split))).add("measured", json(measured)).text().c_str());
    else
        std::fprintf(stderr, "%zu images in %s s: %s images/s with %s\n", count, rounded(seconds).c_str(),
                     rounded(rate).c_str(), to_text(split).c_str());
    return interrupted ? 130 : failures || count == 0 ? 1 : 0;
}
