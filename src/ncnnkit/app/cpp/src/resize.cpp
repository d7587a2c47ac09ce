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

// Of each new pixel of a line: the pixel before it, which may be -1, and the weights of that one and of the next.
struct Neighbours {
    int first, before, after;
};

constexpr int kFraction = 2048; // of these weights: OpenCV's INTER_RESIZE_COEF_SCALE

std::vector<Neighbours> neighbours(int from, int to)
{
    const double scale = 1.0 / (static_cast<double>(to) / from);
    std::vector<Neighbours> found;
    for (int i = 0; i < to; i++) {
        const float place = static_cast<float>((i + 0.5) * scale - 0.5);
        const float first = std::floor(place), part = place - first, rest = 1.0f - part;
        found.push_back({static_cast<int>(first), static_cast<int>(std::nearbyint(rest * kFraction)),
                         static_cast<int>(std::nearbyint(part * kFraction))});
    }
    return found;
}

// OpenCV's INTER_LINEAR of 8 bits (resize.cpp of its imgproc). Halving both sides is a mean of four pixels there.
void opencv(const Image& from, Image& to)
{
    const int channels = from.channels;
    if (from.height == 2 * to.height && from.width == 2 * to.width) {
        for (int y = 0; y < to.height; y++)
            for (int x = 0; x < to.width * channels; x++) {
                const std::size_t at = std::size_t(x / channels) * 2 * channels + x % channels;
                const std::uint8_t *upper = from.row(2 * y) + at, *lower = from.row(2 * y + 1) + at;
                to.row(y)[x] = static_cast<std::uint8_t>((upper[0] + upper[channels] + lower[0] + lower[channels] + 2) >> 2);
            }
        return;
    }
    std::vector<Neighbours> columns = neighbours(from.width, to.width);
    // OpenCV gives the outer half of the first and last columns one pixel, but that of the rows twice the same one.
    for (Neighbours& column : columns)
        if (column.first < 0 || column.first >= from.width - 1)
            column = {std::clamp(column.first, 0, from.width - 1), kFraction, 0};
    const std::vector<Neighbours> rows = neighbours(from.height, to.height);
    std::vector<int> lines[2] = {std::vector<int>(to.width * channels), std::vector<int>(to.width * channels)};
    for (int y = 0; y < to.height; y++) {
        for (int k = 0; k < 2; k++) {
            const std::uint8_t* in = from.row(std::clamp(rows[y].first + k, 0, from.height - 1));
            int* line = lines[k].data();
            for (const Neighbours& column : columns) {
                const std::uint8_t* first = in + std::size_t(column.first) * channels;
                const std::uint8_t* next = in + std::size_t(std::min(column.first + 1, from.width - 1)) * channels;
                for (int c = 0; c < channels; c++)
                    *line++ = (first[c] * column.before + next[c] * column.after) >> 4;
            }
        }
        std::uint8_t* out = to.row(y);
        for (int x = 0; x < to.width * channels; x++) {
            const int sum = ((lines[0][x] * rows[y].before) >> 16) + ((lines[1][x] * rows[y].after) >> 16);
            out[x] = static_cast<std::uint8_t>((sum + 2) >> 2);
        }
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
    if (filter == Filter::opencv) {
        reshape(to, width, height, from.channels);
        opencv(from, to);
        return;
    }
    static thread_local Image between; // the passes; kept for the next image
    const auto across = [&](const Image& in, Image& out) {
        reshape(out, width, in.height, in.channels);
        const auto pass = in.channels == 1 ? horizontal<1> : in.channels == 3 ? horizontal<3> : horizontal<4>;
        pass(in, plan(in.width, width, kernel(filter)), out);
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
