#include "streams.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <map>
#include <thread>

#include "failure.h"
#include "input.h"
#include "json.h"
#include "ordered_queue.h"
#include "predictor.h"
#include "source.h"
#include "split.h"

namespace {

using Clock = std::chrono::steady_clock;

volatile std::sig_atomic_t interrupted = 0;

struct Answer {
    std::string name;
    Prediction found;
    std::string failure; // why there is none
};

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

Answer answer(Predictor& predict, const Frame& frame)
{
    try {
        return {frame.name, predict(read_input(frame.name, frame.file)), ""};
    } catch (const std::exception& error) {
        return {frame.name, {}, error.what()};
    }
}

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

void print(const Answer& answer, const std::vector<std::string>& labels, const Options& options)
{
    if (!answer.failure.empty())
        std::fprintf(stderr, "infer: %s\n", answer.failure.c_str());
    if (options.json) {
        Json out;
        out.add("input", quoted(answer.name));
        if (answer.failure.empty())
            describe(answer.found, labels, options.top, out);
        else
            out.add("error", quoted(answer.failure));
        std::puts(out.text().c_str());
    } else if (answer.failure.empty()) {
        std::printf("%s", answer.name.c_str());
        for (const std::string& line : lines(answer.found, labels, options.top))
            std::printf("\t%s", line.c_str());
        std::putchar('\n');
    }
    std::fflush(stdout); // whoever reads a pipe from a camera waits for each line
}

} // namespace

int stream(const Options& options, const Settings& settings, const ModelFiles& files)
{
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    sigaction(SIGINT, &action, nullptr); // without SA_RESTART: a read from a camera's pipe ends, too
    sigaction(SIGTERM, &action, nullptr);

    Split split = parse_split(options.split);
    const std::unique_ptr<Source> source = open_source(options.input);
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
