// Landmarks: points of the one object in the image.
#include "task.h"

#include <algorithm>
#include <cmath>

#include "decoder.h"
#include "draw.h"
#include "failure.h"
#include "tensor.h"

const char* const kPicture = "";
const bool kJoinsTiles = false;

Prediction decode(const std::vector<Part>& parts)
{
    const Placement& place = parts.front().place;
    const std::vector<float> values = values_of(parts.front().outputs[kOutput]);
    if (values.size() % kNumbers)
        throw Failure(std::to_string(values.size()) + " values are no points of " + std::to_string(kNumbers) + " numbers");
    const std::size_t count = values.size() / kNumbers;
    const std::size_t point = kApart ? 1 : kNumbers, number = kApart ? count : 1;
    Prediction found;
    for (std::size_t i = 0; i < count; i++) {
        const float* first = values.data() + i * point;
        const float x = kOffset[0] + kFactor[0] * first[0], y = kOffset[1] + kFactor[1] * first[number];
        found.points.push_back({float(place.image_x(x)), float(place.image_y(y)), kNumbers > 2 ? first[2 * number] : 1.0f});
    }
    return found;
}

double agreement(const Prediction& ours, const Prediction& theirs)
{
    // The share of points that are nearer than 5 % of the object's size.
    const std::vector<Point>&a = ours.points, &b = theirs.points;
    if (a.size() != b.size() || b.empty())
        return 0;
    const auto [left, right] = std::minmax_element(b.begin(), b.end(), [](auto& p, auto& q) { return p.x < q.x; });
    const auto [top, bottom] = std::minmax_element(b.begin(), b.end(), [](auto& p, auto& q) { return p.y < q.y; });
    const double size = std::hypot(right->x - left->x, bottom->y - top->y);
    double near = 0;
    for (std::size_t i = 0; i < b.size(); i++)
        near += std::hypot(a[i].x - b[i].x, a[i].y - b[i].y) <= 0.05 * size;
    return near / double(b.size());
}

std::vector<std::string> lines(const Prediction& found, const std::vector<std::string>&, int)
{
    std::vector<std::string> text;
    for (const Point& point : found.points)
        text.push_back(rounded(point.x) + "," + rounded(point.y) + (kNumbers > 2 ? " " + rounded(point.seen) : ""));
    return text;
}

void describe(const Prediction& found, const std::vector<std::string>&, int, Json& json)
{
    std::vector<std::string> points;
    for (const Point& point : found.points)
        points.push_back(listed({number(point.x), number(point.y), number(point.seen)}));
    json.add("points", listed(points));
}

void draw(const Prediction& found, const std::vector<std::string>&, Image& image)
{
    for (const Point& point : found.points)
        dot(image, point.x, point.y, colour_of(0));
}
