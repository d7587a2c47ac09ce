#include "preprocess.h"

#include <algorithm>

#include "failure.h"
#include "tensor.h"

namespace {

// Three statements: each operation rounds to float once, as numpy's do.
float normalised(float value, const Preprocess& how, std::size_t channel)
{
    const float scaled = value / how.divisor;
    const float centred = scaled - how.mean[channel];
    return centred / how.std[channel];
}

} // namespace

Preprocessor::Preprocessor(const Preprocess& preprocess, const std::vector<int>& shape) : how_(preprocess)
{
    // What a letterbox leaves is its fill, and what lies outside of a crop is black.
    const bool fits = how_.fit.way != Way::none;
    for (std::size_t c = 0; c < how_.mean.size(); c++) {
        values_.emplace_back();
        for (int pixel = 0; pixel < 256; pixel++)
            values_[c][pixel] = normalised(static_cast<float>(pixel), how_, c);
        outside_.push_back(fits && !how_.fit.filled ? 0.0f : values_[c][fits ? how_.fit.fill[c] : 0]);
    }
    tensor_.create(shape[2], shape[1], shape[0]);
}

const ncnn::Mat& Preprocessor::operator()(const Image& image, const Placement& place)
{
    fill(resized(in_color(image), place), place);
    return tensor_;
}

const Image& Preprocessor::in_color(const Image& image)
{
    if (image.channels == how_.channels())
        return image;
    in_channels(image, how_.channels(), colored_);
    return colored_;
}

const Image& Preprocessor::resized(const Image& image, const Placement& place)
{
    if (place.height == image.height && place.width == image.width)
        return image;
    resize(image, place.width, place.height, how_.filter, how_.may_swap, resized_);
    return resized_;
}

void Preprocessor::fill(const Image& image, const Placement& place)
{
    const bool reversed = how_.color == Color::bgr || how_.color == Color::bgra;
    for (int c = 0; c < how_.channels(); c++) {
        const int channel = reversed && c < 3 ? 2 - c : c;
        for (int y = 0; y < place.input_height; y++) {
            float* to = how_.channels_last ? static_cast<float*>(tensor_.channel(y)) + c : tensor_.channel(c).row(y);
            const int step = how_.channels_last ? how_.channels() : 1;
            const int row = y - place.top;
            for (int x = 0; x < place.input_width; x++, to += step) {
                const int column = x - place.left;
                const bool inside = row >= 0 && row < image.height && column >= 0 && column < image.width;
                *to = inside ? values_[c][image.row(row)[std::size_t(column) * image.channels + channel]] : outside_[c];
            }
        }
    }
}

ncnn::Mat prepare_array(const std::string& path, const Preprocess& how, const std::vector<int>& shape)
{
    ncnn::Mat array = read_tensor(path, shape);
    const std::size_t plane = std::size_t(array.w) * array.h * array.d, total = how.arrays ? plane * array.c : 0;
    const std::size_t channels = how.mean.size();
    for (std::size_t i = 0; i < total; i++) {
        float& value = static_cast<float*>(array.channel(static_cast<int>(i / plane)))[i % plane];
        value = normalised(value, how, how.channels_last ? i % channels : i / (total / channels));
    }
    return array;
}
