#include "preprocess.h"

#include <algorithm>

#include "failure.h"

namespace {

constexpr long long kLargest = 100000000; // pixels after resizing; a strip of 1x5000 would ask for gigabytes

// Where a centred crop begins: torchvision's rounding, half to even where it fits, down where black is added.
int margin(int size, int crop)
{
    if (size < crop)
        return -((crop - size) / 2);
    const int half = (size - crop) / 2;
    return (size - crop) % 2 ? half + half % 2 : half;
}

std::string times(int height, int width)
{
    return std::to_string(height) + "x" + std::to_string(width);
}

} // namespace

Preprocessor::Preprocessor(const Preprocess& preprocess, const std::vector<int>& shape) : how_(preprocess), shape_(shape)
{
    for (int c = 0; c < how_.channels(); c++)
        for (int pixel = 0; pixel < 256; pixel++) {
            // Three statements: each operation rounds to float once, as numpy's do.
            const float scaled = static_cast<float>(pixel) / how_.divisor;
            const float centred = scaled - how_.mean[c];
            values_[c][pixel] = centred / how_.std[c];
        }
    tensor_.create(shape_[2], shape_[1], shape_[0]);
}

const ncnn::Mat& Preprocessor::operator()(const Image& image, const std::string& name)
{
    const Image& ready = resized(in_color(image), name);
    const int height = how_.crop_height ? how_.crop_height : ready.height;
    const int width = how_.crop_width ? how_.crop_width : ready.width;
    if (height != shape_[1] || width != shape_[2])
        throw Failure(name + ": becomes " + times(height, width) + ", the network takes " + times(shape_[1], shape_[2]));
    fill(ready);
    return tensor_;
}

const Image& Preprocessor::in_color(const Image& image)
{
    if (image.channels == how_.channels())
        return image;
    colored_.width = image.width;
    colored_.height = image.height;
    colored_.channels = how_.channels();
    const std::size_t count = std::size_t(image.width) * image.height;
    colored_.pixels.resize(count * colored_.channels);
    const std::uint8_t* from = image.pixels.data();
    std::uint8_t* to = colored_.pixels.data();
    if (image.channels == 1)
        for (std::size_t i = 0; i < count; i++, to += 3)
            std::fill(to, to + 3, from[i]);
    else // ITU-R 601-2 luma, in Pillow's fixed point
        for (std::size_t i = 0; i < count; i++, from += 3)
            to[i] = static_cast<std::uint8_t>((from[0] * 19595 + from[1] * 38470 + from[2] * 7471 + 0x8000) >> 16);
    return colored_;
}

const Image& Preprocessor::resized(const Image& image, const std::string& name)
{
    int height = how_.height, width = how_.width;
    if (how_.shorter_side) {
        const long long side = how_.shorter_side;
        const int shorter = std::min(image.height, image.width), longer = std::max(image.height, image.width);
        const long long other = static_cast<long long>(static_cast<double>(side * longer) / shorter);
        if (side * other > kLargest)
            throw Failure(name + ": is too long and thin (" + times(image.height, image.width) + ") to resize");
        height = static_cast<int>(image.height <= image.width ? side : other);
        width = static_cast<int>(image.height <= image.width ? other : side);
    }
    if (height == 0 || (height == image.height && width == image.width))
        return image;
    resize(image, width, height, how_.filter, how_.may_swap, resized_);
    return resized_;
}

void Preprocessor::fill(const Image& image)
{
    const int top = margin(image.height, shape_[1]), left = margin(image.width, shape_[2]);
    for (int c = 0; c < shape_[0]; c++) {
        const int channel = how_.color == Color::bgr ? 2 - c : c;
        float* to = tensor_.channel(c);
        for (int y = top; y < top + shape_[1]; y++)
            for (int x = left; x < left + shape_[2]; x++) {
                const bool inside = y >= 0 && y < image.height && x >= 0 && x < image.width;
                *to++ = values_[c][inside ? image.row(y)[std::size_t(x) * image.channels + channel] : 0];
            }
    }
}
