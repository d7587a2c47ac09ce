// Segmentation: a class for each pixel.
#include "task.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "decoder.h"
#include "draw.h"
#include "failure.h"
#include "tensor.h"

const char* const kPicture = "mask";
const bool kJoinsTiles = true;

namespace {

struct ClassMap {
    int height, width;
    std::vector<std::uint8_t> classes;
};

std::size_t product(std::vector<int>::const_iterator begin, std::vector<int>::const_iterator end)
{
    return std::accumulate(begin, end, std::size_t(1), [](std::size_t a, int b) { return a * b; });
}

ClassMap map_of(const ncnn::Mat& output)
{
    const std::vector<float> values = values_of(output);
    std::vector<int> shape = product(kShape.begin(), kShape.end()) == values.size() ? kShape : shape_of(output);
    if (kAxis >= static_cast<int>(shape.size()))
        throw Failure("the output " + times(shape) + " has no axis of classes");
    const bool several = kAxis >= 0;
    const std::size_t count = several ? shape[kAxis] : 1;
    const std::size_t inner = several ? product(shape.begin() + kAxis + 1, shape.end()) : values.size();
    if (count > 256)
        throw Failure(std::to_string(count) + " classes do not fit into a mask of 8 bits");
    if (several)
        shape.erase(shape.begin() + kAxis);
    while (shape.size() > 2 && shape.front() == 1)
        shape.erase(shape.begin());
    if (shape.size() > 2)
        throw Failure("the classes " + times(shape) + " are no map");
    ClassMap map{shape.size() < 2 ? 1 : shape[0], shape.back(), {}};
    for (std::size_t at = 0; at < values.size() / count; at++) {
        const float* first = values.data() + at / inner * count * inner + at % inner;
        std::size_t best = 0;
        if (!several)
            best = *first > kThreshold;
        for (std::size_t i = 1; i < count; i++)
            if (first[i * inner] > first[best * inner])
                best = i;
        map.classes.push_back(static_cast<std::uint8_t>(best));
    }
    return map;
}

// The share of each class, the largest first.
std::vector<std::pair<double, int>> shares(const Image& mask)
{
    std::map<int, std::size_t> counts;
    for (std::uint8_t index : mask.pixels)
        counts[index]++;
    std::vector<std::pair<double, int>> found;
    for (const auto& [index, count] : counts)
        found.push_back({double(count) / double(mask.pixels.size()), index});
    std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    return found;
}

} // namespace

Prediction decode(const std::vector<Part>& parts)
{
    // Each pixel of the image gets the class at its centre, of the tile in which it is farthest from the border. What no
    // tile covers is of class 0.
    const Placement& first = parts.front().place;
    Prediction found;
    found.image = Image(first.image_width, first.image_height, 1);
    std::vector<double> inside(found.image.pixels.size(), 0.0);
    for (const auto& [outputs, place] : parts) {
        const ClassMap map = map_of(outputs[kOutput]);
        for (int row = 0; row < place.image_height; row++) {
            const double y = (row + 0.5) * place.height / place.image_height + place.top;
            for (int column = 0; column < place.image_width; column++) {
                const double x = (column + 0.5) * place.width / place.image_width + place.left;
                const double away = std::min({x, place.input_width - x, y, place.input_height - y});
                const std::size_t at = std::size_t(row) * place.image_width + column;
                if (away <= inside[at])
                    continue;
                inside[at] = away;
                const int map_row = static_cast<int>(y * map.height / place.input_height);
                const int map_column = static_cast<int>(x * map.width / place.input_width);
                found.image.pixels[at] = map.classes[std::size_t(map_row) * map.width + map_column];
            }
        }
    }
    return found;
}

double agreement(const Prediction& ours, const Prediction& theirs)
{
    const std::vector<std::uint8_t>&a = ours.image.pixels, &b = theirs.image.pixels;
    if (a.size() != b.size())
        return 0;
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0, std::plus<>(), std::equal_to<>()) / double(a.size());
}

std::vector<std::string> lines(const Prediction& found, const std::vector<std::string>& labels, int)
{
    std::vector<std::string> text;
    for (const auto& [share, index] : shares(found.image))
        text.push_back(rounded(100 * share) + " %\t" + class_name(labels, index));
    return text;
}

void describe(const Prediction& found, const std::vector<std::string>& labels, int, Json& json)
{
    std::vector<std::string> rows;
    for (const auto& [share, index] : shares(found.image))
        rows.push_back(Json().add("index", index).add("label", quoted(class_name(labels, index))).add("share", share).text());
    json.add("classes", listed(rows));
}

void draw(const Prediction& found, const std::vector<std::string>&, Image& image)
{
    for (std::size_t i = 0; i < found.image.pixels.size(); i++) {
        const int index = found.image.pixels[i];
        if (kAxis < 0 && index == 0)
            continue; // all that is not looked for
        const Colour colour = colour_of(index);
        for (int c = 0; c < 3; c++)
            image.pixels[3 * i + c] = static_cast<std::uint8_t>((image.pixels[3 * i + c] + colour[c]) / 2);
    }
}
