#include "placing.h"

#include <algorithm>
#include <cmath>

#include "failure.h"

namespace {

constexpr double kLargest = 100000000; // pixels after resizing; a strip of 1x5000 would ask for gigabytes

struct Size {
    double height, width; // whole numbers
};

double whole(double value, Rounding rounding)
{
    switch (rounding) {
    case Rounding::down: return std::floor(value);
    case Rounding::up: return std::ceil(value);
    default: return std::nearbyint(value); // half to even
    }
}

double multiple_of(double side, int multiple)
{
    return std::ceil(side / multiple) * multiple;
}

// Where a centred crop begins: torchvision's rounding, half to even where it fits, down where black is added.
int margin(int size, int crop)
{
    if (size < crop)
        return -((crop - size) / 2);
    const int half = (size - crop) / 2;
    return (size - crop) % 2 ? half + half % 2 : half;
}

Size simply_resized(const Preprocess& how, double height, double width)
{
    if (how.height)
        return {double(how.height), double(how.width)};
    if (!how.shorter_side)
        return {height, width};
    const double side = how.shorter_side;
    const double longer = std::floor(side * std::max(height, width) / std::min(height, width));
    return height <= width ? Size{side, longer} : Size{longer, side};
}

// The size of the resized image, and that of the input.
void fit_in(const Fit& fit, double height, double width, Size& resized, Size& input)
{
    const Size size = fit.height ? Size{double(fit.height), double(fit.width)} : Size{height, width};
    if (fit.way == Way::multiple) {
        double scale = fit.shorter ? std::max(1.0, fit.shorter / std::min(height, width)) : 1.0;
        scale = fit.longer ? std::min(scale, fit.longer / std::max(height, width)) : scale;
        const auto side = [&](double length) { // cut to whole pixels first, as PaddleOCR does
            return std::max(1.0, whole(std::floor(length * scale) / fit.multiple, fit.rounding)) * fit.multiple;
        };
        resized = input = {side(height), side(width)};
    } else if (fit.way == Way::right) {
        resized = {size.height, std::max(1.0, std::min(whole(size.height * (width / height), fit.rounding), size.width))};
        input = size;
    } else {
        double scale = std::min(size.height / height, size.width / width);
        scale = fit.grow ? scale : std::min(scale, 1.0);
        const auto side = [&](double length, double most) {
            return std::max(1.0, std::min(whole(length * scale, fit.rounding), most));
        };
        resized = {side(height, size.height), side(width, size.width)};
        input = size;
        if (fit.multiple > 1)
            input = {multiple_of(resized.height, fit.multiple), multiple_of(resized.width, fit.multiple)};
    }
}

// Where tiles begin on a side.
std::vector<int> starts(int length, int tile, int overlap)
{
    if (length <= tile)
        return {0};
    const long long step = tile - overlap, count = (length - overlap + step - 1) / step;
    std::vector<int> found;
    for (long long i = 0; i < count; i++)
        found.push_back(static_cast<int>((length - tile) * i / (count - 1)));
    return found;
}

} // namespace

std::vector<Placement> places(const Preprocess& how, int height, int width, const std::string& name)
{
    Size exact{}, input{};
    if (how.fit.way == Way::none)
        exact = input = simply_resized(how, height, width);
    else
        fit_in(how.fit, height, width, exact, input);
    if (std::max(exact.height * exact.width, input.height * input.width) > kLargest)
        throw Failure(name + ": is too long and thin (" + std::to_string(width) + "x" + std::to_string(height) + ") to resize");
    const int rows = static_cast<int>(exact.height), columns = static_cast<int>(exact.width);
    if (how.tiles) {
        std::vector<Placement> found;
        for (int top : starts(rows, how.crop_height, how.overlap))
            for (int left : starts(columns, how.crop_width, how.overlap))
                found.push_back({rows, columns, -top, -left, how.crop_height, how.crop_width, height, width});
        return found;
    }
    if (how.crop_height)
        return {{rows, columns, -margin(rows, how.crop_height), -margin(columns, how.crop_width), how.crop_height,
                 how.crop_width, height, width}};
    const int high = static_cast<int>(input.height), wide = static_cast<int>(input.width);
    if (how.fit.way == Way::letterbox && how.fit.centre)
        return {{rows, columns, (high - rows) / 2, (wide - columns) / 2, high, wide, height, width}};
    return {{rows, columns, 0, 0, high, wide, height, width}};
}
