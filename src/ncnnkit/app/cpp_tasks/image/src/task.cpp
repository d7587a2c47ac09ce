// Images: the output is an image. Overlapping tiles are blended: the weight of a pixel falls towards the border of a tile.
#include "task.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "decoder.h"
#include "failure.h"
#include "tensor.h"

namespace {

// An output with the axes channels, height, width, or height, width, channels (`last`).
struct Planes {
    int channels, height, width;
    bool last;
    std::vector<float> values;

    float at(int c, int y, int x) const
    {
        return values[last ? (std::size_t(y) * width + x) * channels + c : (std::size_t(c) * height + y) * width + x];
    }
};

bool is_color(int channels)
{
    return channels == 1 || channels == 3;
}

Planes planes_of(const ncnn::Mat& output)
{
    Planes planes{1, 0, 0, false, values_of(output)};
    const std::size_t known = std::accumulate(kShape.begin(), kShape.end(), std::size_t(1), std::multiplies<std::size_t>());
    std::vector<int> shape = known == planes.values.size() ? kShape : shape_of(output);
    while (shape.size() > 3 && shape.front() == 1)
        shape.erase(shape.begin());
    if (shape.size() == 2)
        shape.insert(shape.begin(), 1);
    if (shape.size() != 3 || !(is_color(shape[0]) || is_color(shape[2])))
        throw Failure("the output " + times(shape) + " is not an image");
    planes.last = !is_color(shape[0]);
    planes.channels = shape[planes.last ? 2 : 0];
    planes.height = shape[planes.last ? 0 : 1];
    planes.width = shape[planes.last ? 1 : 2];
    return planes;
}

int scaled(int length, int to, int from)
{
    return static_cast<int>(std::lround(double(length) * to / from));
}

} // namespace

Prediction decode(const std::vector<Part>& parts)
{
    // The part of the resized image that the tiles cover, in its pixels.
    const Placement& first = parts.front().place;
    int left = first.width, top = first.height, right = 0, bottom = 0;
    for (const Part& part : parts) {
        left = std::max(0, std::min(left, -part.place.left));
        top = std::max(0, std::min(top, -part.place.top));
        right = std::min(first.width, std::max(right, part.place.input_width - part.place.left));
        bottom = std::min(first.height, std::max(bottom, part.place.input_height - part.place.top));
    }
    Image image;
    std::vector<float> sum, weights;
    for (const auto& [outputs, place] : parts) {
        const Planes planes = planes_of(outputs[kOutput]);
        const auto column = [&](int x) { return scaled(x, planes.width, place.input_width); };
        const auto row = [&](int y) { return scaled(y, planes.height, place.input_height); };
        if (image.pixels.empty()) {
            image = Image(column(right) - column(left), row(bottom) - row(top), planes.channels);
            sum.resize(image.pixels.size());
            weights.resize(std::size_t(image.width) * image.height);
        }
        const int shift_x = column(place.left) + column(left), shift_y = row(place.top) + row(top);
        for (int y = std::max(0, shift_y); y < std::min(planes.height, image.height + shift_y); y++)
            for (int x = std::max(0, shift_x); x < std::min(planes.width, image.width + shift_x); x++) {
                const float weight = static_cast<float>(std::min(x + 1, planes.width - x))
                                     * static_cast<float>(std::min(y + 1, planes.height - y));
                const std::size_t at = std::size_t(y - shift_y) * image.width + (x - shift_x);
                weights[at] += weight;
                for (int c = 0; c < planes.channels; c++)
                    sum[at * planes.channels + c] += weight * planes.at(c, y, x);
            }
    }
    for (std::size_t i = 0; i < sum.size(); i++) {
        const std::size_t pixel = i / image.channels, channel = i % image.channels;
        const float value = (sum[i] / weights[pixel] - kBlack) / (kWhite - kBlack);
        const std::size_t to = kReversed ? image.channels - 1 - channel : channel;
        image.pixels[pixel * image.channels + to] = static_cast<std::uint8_t>(std::clamp(value, 0.0f, 1.0f) * 255 + 0.5f);
    }
    Prediction found;
    found.image = std::move(image);
    return found;
}

double agreement(const Prediction& ours, const Prediction& theirs)
{
    // 1 - RMSE, with pixels from 0 to 1.
    const std::vector<std::uint8_t>&a = ours.image.pixels, &b = theirs.image.pixels;
    if (a.size() != b.size())
        return 0;
    double squares = 0;
    for (std::size_t i = 0; i < a.size(); i++)
        squares += (a[i] - b[i]) * (a[i] - b[i]) / 65025.0;
    return 1 - std::sqrt(squares / double(a.size()));
}

std::vector<std::string> lines(const Prediction& found, const std::vector<std::string>&)
{
    return {"an image of " + times({found.image.width, found.image.height}) + " pixels: give a .png as OUTPUT to keep it"};
}

void describe(const Prediction& found, const std::vector<std::string>&, Json& json)
{
    json.add("width", found.image.width).add("height", found.image.height);
}
