#include "predictor.h"

#include <chrono>

#include "model.h"

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start)
{
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

} // namespace

Predictor::Predictor(const Engine& engine) : inference_(engine)
{
    if (kModel.takes_images)
        preprocessor_.emplace(kModel.preprocess, kModel.shape);
}

Prediction Predictor::operator()(const Input& input)
{
    std::vector<Part> parts;
    for (const Placement& place : input.places) {
        parts.push_back({inference_.run(tensor(input, place)), place});
        check_finite(parts.back().outputs);
    }
    return decode(parts);
}

Timed Predictor::timed(const Input& input, int count)
{
    auto start = Clock::now();
    const ncnn::Mat& prepared = tensor(input, input.places.front());
    Timed timed{input.read_ms + since(start), {}, {}};
    for (int i = 0; i <= count; i++) {
        start = Clock::now();
        timed.outputs = inference_.run(prepared);
        timed.samples_ms.push_back(since(start));
    }
    return timed;
}

const ncnn::Mat& Predictor::tensor(const Input& input, const Placement& place)
{
    return input.image.pixels.empty() ? input.array : (*preprocessor_)(input.image, place);
}
