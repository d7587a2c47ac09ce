#include "resize.h"

#include <algorithm>
#include <cmath>

namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr int kBits = 32 - 8 - 2; // of a coefficient's fraction: 8 bits of pixel, 2 of headroom

// The filters of Pillow's Resample.c. Each is zero from its support on.
double box(double x)
{
    return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
}

double bilinear(double x)
{
    x = std::fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

double hamming(double x)
{
    x = std::fabs(x);
    if (x == 0.0)
        return 1.0;
    if (x >= 1.0)
        return 0.0;
    x = x * kPi;
    return std::sin(x) / x * (0.54 + 0.46 * std::cos(x));
}

double bicubic(double x)
{
    constexpr double a = -0.5;
    x = std::fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

double sinc(double x)
{
    if (x == 0.0)
        return 1.0;
    x = x * kPi;
    return std::sin(x) / x;
}

double lanczos(double x)
{
    return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
}

struct Kernel {
    double (*at)(double);
    double support;
};

Kernel kernel(Filter filter)
{
    switch (filter) {
    case Filter::box: return {box, 0.5};
    case Filter::hamming: return {hamming, 1.0};
    case Filter::bicubic: return {bicubic, 2.0};
    case Filter::lanczos: return {lanczos, 3.0};
    default: return {bilinear, 1.0};
    }
}

// Which pixels of a line make one pixel of the new line, and how much of each.
struct Taps {
    int first;
    int count;
    const int* weights;
};

struct Plan {
    std::vector<int> weights;
    std::vector<Taps> taps;
};

Plan plan(int from, int to, const Kernel& kernel)
{
    const double scale = static_cast<double>(from) / to;
    const double stretch = std::max(scale, 1.0);
    const double support = kernel.support * stretch;
    const int size = static_cast<int>(std::ceil(support)) * 2 + 1;
    Plan plan;
    plan.weights.resize(std::size_t(size) * to);
    std::vector<double> exact(size);
    for (int i = 0; i < to; i++) {
        const double center = (i + 0.5) * scale;
        const double inverse = 1.0 / stretch;
        const int first = std::max(static_cast<int>(center - support + 0.5), 0);
        const int count = std::min(static_cast<int>(center + support + 0.5), from) - first;
        double sum = 0.0;
        for (int k = 0; k < count; k++)
            sum += exact[k] = kernel.at((k + first - center + 0.5) * inverse);
        int* weights = plan.weights.data() + std::size_t(size) * i;
        for (int k = 0; k < count; k++) {
            const double weight = sum != 0.0 ? exact[k] / sum : exact[k];
            weights[k] = static_cast<int>((weight < 0 ? -0.5 : 0.5) + weight * (1 << kBits));
        }
        plan.taps.push_back({first, count, weights});
    }
    return plan;
}

std::uint8_t clip(int sum)
{
    return static_cast<std::uint8_t>(std::clamp(sum >> kBits, 0, 255));
}

template <int channels>
void horizontal(const Image& from, const Plan& plan, Image& to)
{
    for (int y = 0; y < to.height; y++) {
        std::uint8_t* out = to.row(y);
        for (const Taps& taps : plan.taps) {
            const std::uint8_t* in = from.row(y) + std::size_t(taps.first) * channels;
            int sums[channels];
            std::fill(sums, sums + channels, 1 << (kBits - 1));
            for (int k = 0; k < taps.count; k++, in += channels)
                for (int c = 0; c < channels; c++)
                    sums[c] += in[c] * taps.weights[k];
            for (int c = 0; c < channels; c++)
                *out++ = clip(sums[c]);
        }
    }
}

void vertical(const Image& from, const Plan& plan, Image& to)
{
    const int width = from.width * from.channels;
    std::vector<int> sums(width);
    for (int y = 0; y < to.height; y++) {
        const Taps& taps = plan.taps[y];
        std::fill(sums.begin(), sums.end(), 1 << (kBits - 1));
        for (int k = 0; k < taps.count; k++) {
            const std::uint8_t* in = from.row(taps.first + k);
            const int weight = taps.weights[k];
            for (int x = 0; x < width; x++)
                sums[x] += in[x] * weight;
        }
        std::transform(sums.begin(), sums.end(), to.row(y), clip);
    }
}

// Steps are added up, not multiplied, as Pillow does: what lands outside for that is black.
std::vector<int> nearest_places(int from, int to)
{
    const double step = static_cast<double>(from) / to;
    std::vector<int> places;
    double at = step * 0.5;
    for (int i = 0; i < to; i++, at += step)
        places.push_back(static_cast<int>(at) < from ? static_cast<int>(at) : -1);
    return places;
}

void nearest(const Image& from, Image& to)
{
    const std::vector<int> columns = nearest_places(from.width, to.width);
    const std::vector<int> rows = nearest_places(from.height, to.height);
    for (int y = 0; y < to.height; y++) {
        std::uint8_t* out = to.row(y);
        for (int column : columns)
            for (int c = 0; c < to.channels; c++)
                *out++ = rows[y] < 0 || column < 0 ? 0 : from.row(rows[y])[std::size_t(column) * from.channels + c];
    }
}

void reshape(Image& image, int width, int height, int channels)
{
    image.width = width;
    image.height = height;
    image.channels = channels;
    image.pixels.resize(std::size_t(width) * height * channels);
}

} // namespace

void resize(const Image& from, int width, int height, Filter filter, bool may_swap, Image& to)
{
    if (filter == Filter::nearest) {
        reshape(to, width, height, from.channels);
        nearest(from, to);
        return;
    }
    static thread_local Image between; // the passes; kept for the next image
    const auto across = [&](const Image& in, Image& out) {
        reshape(out, width, in.height, in.channels);
        (in.channels == 1 ? horizontal<1> : horizontal<3>)(in, plan(in.width, width, kernel(filter)), out);
    };
    const auto down = [&](const Image& in, Image& out) {
        reshape(out, in.width, height, in.channels);
        vertical(in, plan(in.height, height, kernel(filter)), out);
    };
    const int fewer_rows = from.height - height, fewer_columns = from.width - width;
    if (fewer_rows == 0) {
        across(from, to);
    } else if (fewer_columns == 0) {
        down(from, to);
    } else if (may_swap && fewer_rows > 0 && fewer_rows > 2 * fewer_columns) {
        down(from, between);
        across(between, to);
    } else {
        across(from, between);
        down(between, to);
    }
}
