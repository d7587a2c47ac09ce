// Detection: boxes, perhaps with keypoints. All heads go the same way: each box becomes a row of its parts, the scores of
// the classes become candidates, candidates become corners, and boxes that overlap a better one are dropped.
#include "task.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "decoder.h"
#include "draw.h"
#include "failure.h"
#include "tensor.h"

const char* const kPicture = kDecoder.prototypes ? "mask" : "";
const bool kJoinsTiles = true;

namespace {

// ------------------------------------------------------------------------------------------------------------ tables

struct Rows {
    int wide = 0;
    std::vector<float> values;

    std::size_t count() const { return wide ? values.size() / wide : 0; }
    const float* operator[](std::size_t row) const { return values.data() + row * wide; }
};

using Parts = std::map<Column, Rows>;

// Where the values of a table lie: those of box `box` of cell `cell` begin at box * by_box + cell * by_cell.
struct Strides {
    std::size_t box, cell, column;
};

Strides strides(Layout layout, std::size_t boxes, std::size_t cells, std::size_t columns)
{
    switch (layout) {
    case Layout::columns: return {1, boxes, boxes * cells};
    case Layout::maps: return {columns * cells, 1, cells};
    case Layout::planes: return {cells, 1, boxes * cells};
    case Layout::stacks: return {cells * columns, columns, 1};
    default: return {columns, boxes * columns, 1};
    }
}

// The columns of a table must be where its layout says, a batch axis aside; a vector has lost its axes.
void check(const Table& table, std::vector<int> shape, std::size_t size, int wide, int boxes)
{
    const bool grid = table.layout == Layout::maps || table.layout == Layout::planes;
    const bool first = grid || table.layout == Layout::columns;
    const int expected = grid ? wide * boxes : wide;
    const std::string said = times(shape);
    while (shape.size() > 2 && shape[0] == 1 && (first ? shape.front() : shape.back()) != expected)
        shape.erase(shape.begin());
    const bool fits = shape.size() < 2 || !size || (first ? shape.front() : shape.back()) == expected;
    const bool plain = table.layout == Layout::rows || table.layout == Layout::columns;
    if (!fits || size % (plain ? wide : wide * boxes))
        throw Failure("an output of shape " + said + " is no table of " + std::to_string(wide) + " columns");
}

Parts gather(const std::vector<ncnn::Mat>& outputs)
{
    Parts parts;
    std::map<Column, std::size_t> levels;
    for (const Table& table : kDecoder.tables) {
        const std::vector<float> values = values_of(outputs[table.output]);
        const bool priors = table.columns.front() == Column::priors; // ncnn has them all in a row
        const std::size_t level = levels[table.columns.front()]++;
        const bool on_anchors = level < kDecoder.anchors.size() && table.columns.front() != Column::prototypes;
        const std::size_t each = on_anchors ? kDecoder.anchors[level].sizes.size() : 1;
        int wide = 0;
        for (Column column : table.columns)
            wide += width_of(column);
        check(table, priors ? std::vector<int>{static_cast<int>(values.size())} : shape_of(outputs[table.output]),
              values.size(), wide, static_cast<int>(each));
        const bool plain = table.layout == Layout::rows || table.layout == Layout::columns;
        const std::size_t boxes = plain ? 1 : each, cells = values.size() / (wide * boxes);
        const Strides by = strides(table.layout, boxes, cells, wide);
        int begin = 0;
        for (Column column : table.columns) {
            Rows& rows = parts[column];
            rows.wide = width_of(column);
            for (std::size_t cell = 0; cell < cells; cell++)
                for (std::size_t box = 0; box < boxes; box++)
                    for (int i = 0; i < rows.wide; i++)
                        rows.values.push_back(values[cell * by.cell + box * by.box + (begin + i) * by.column]);
            begin += rows.wide;
        }
    }
    for (const auto& [column, rows] : parts)
        if (column != Column::priors && column != Column::prototypes && rows.count() != parts[Column::boxes].count())
            throw Failure("the outputs have different numbers of boxes");
    return parts;
}

// ----------------------------------------------------------------------------------------------------------- anchors

struct Anchor {
    float x, y, width, height; // the centre, and the size
    float step_x, step_y; // of its cell
    std::array<float, 4> weights; // what deltas are divided by
};

Anchor around(float x1, float y1, float x2, float y2)
{
    const float* w = kDecoder.weights;
    return {(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, x2 - x1, y2 - y1, {w[0], w[1], w[2], w[3]}};
}

std::vector<Anchor> on_grids()
{
    std::vector<Anchor> anchors;
    for (const Grid& grid : kDecoder.anchors)
        for (int row = 0; row < grid.rows; row++)
            for (int column = 0; column < grid.columns; column++)
                for (const auto& [wide, high] : grid.sizes) {
                    const double x = grid.first_x + grid.step_x * column, y = grid.first_y + grid.step_y * row;
                    Anchor anchor = around(float(x - wide / 2), float(y - high / 2), float(x + wide / 2), float(y + high / 2));
                    anchor.step_x = float(grid.step_x);
                    anchor.step_y = float(grid.step_y);
                    anchors.push_back(anchor);
                }
    return anchors;
}

// One for each box; none where boxes need none.
std::vector<Anchor> anchors_for(const Parts& parts)
{
    static const std::vector<Anchor> grids = on_grids();
    const std::size_t count = parts.at(Column::boxes).count();
    const auto found = parts.find(Column::priors);
    if (found == parts.end()) {
        if (!grids.empty() && grids.size() != count)
            throw Failure(std::to_string(count) + " boxes and " + std::to_string(grids.size()) + " anchors");
        return grids;
    }
    const Rows& priors = found->second;
    if (priors.count() != count && priors.count() != 2 * count)
        throw Failure(std::to_string(count) + " boxes and " + std::to_string(priors.count()) + " priors");
    std::vector<Anchor> anchors;
    for (std::size_t i = 0; i < count; i++) {
        const float* p = priors[i];
        anchors.push_back(around(p[0], p[1], p[2], p[3]));
        if (priors.count() == 2 * count) // their variances follow
            for (int k = 0; k < 4; k++)
                anchors[i].weights[k] = 1 / priors[count + i][k];
    }
    return anchors;
}

// ------------------------------------------------------------------------------------------------------------ scores

constexpr float kLargestPower = 80; // the exponential of more is no float

float sigmoid(float value)
{
    return 1 / (1 + std::exp(-std::clamp(value, -kLargestPower, kLargestPower)));
}

void softmax(const float* from, int count, float* to)
{
    const float most = *std::max_element(from, from + count);
    float sum = 0;
    for (int i = 0; i < count; i++)
        sum += to[i] = std::exp(from[i] - most);
    for (int i = 0; i < count; i++)
        to[i] /= sum;
}

float combined(float score, float objectness)
{
    switch (kDecoder.combination) {
    case Combination::root: return std::sqrt(score * objectness);
    // What ncnn's Yolov3DetectionOutput computes: 1 / (1 + exp(-o) (1 + exp(-s))).
    case Combination::ncnn: return score * objectness / (score * objectness + 1 - objectness);
    default: return score * objectness;
    }
}

// The scores of a box; those that are no numbers, and the background's, are below all others.
void class_scores(const float* given, const float* objectness, std::vector<float>& scores)
{
    const int classes = kDecoder.classes;
    constexpr float never = -std::numeric_limits<float>::infinity();
    if (kDecoder.scores == Activation::softmax)
        softmax(given, classes, scores.data());
    for (int i = 0; i < classes; i++) {
        float score = kDecoder.scores == Activation::softmax ? scores[i] : given[i];
        if (kDecoder.scores == Activation::sigmoid)
            score = sigmoid(score);
        if (objectness)
            score = combined(score, kDecoder.scores == Activation::none ? *objectness : sigmoid(*objectness));
        const bool broken = !std::isfinite(given[i]) || (objectness && !std::isfinite(*objectness)) || std::isnan(score);
        scores[i] = broken || i == kDecoder.background ? never : score;
    }
}

struct Candidate {
    std::size_t row;
    int label;
    float score;
};

bool better(const Candidate& a, const Candidate& b)
{
    return a.score > b.score;
}

int group_of(const Candidate& candidate)
{
    if (kDecoder.group == Group::one_class)
        return candidate.label;
    int level = 0;
    std::size_t end = 0;
    if (kDecoder.group == Group::level)
        for (const Grid& grid : kDecoder.anchors) {
            end += grid.count();
            level += candidate.row >= end;
        }
    return level;
}

std::vector<Candidate> candidates(const Parts& parts)
{
    const Rows& given = parts.at(Column::scores);
    const auto objectness = parts.find(Column::objectness);
    std::vector<float> scores(kDecoder.classes);
    std::vector<Candidate> found;
    for (std::size_t row = 0; row < given.count(); row++) {
        class_scores(given[row], objectness == parts.end() ? nullptr : objectness->second[row], scores);
        const int best = static_cast<int>(std::max_element(scores.begin(), scores.end()) - scores.begin());
        for (int label = kDecoder.multi_label ? 0 : best; label < (kDecoder.multi_label ? kDecoder.classes : best + 1); label++)
            if (scores[label] > kDecoder.score_threshold)
                found.push_back({row, label, scores[label]});
    }
    if (!kDecoder.candidates)
        return found;
    std::map<int, std::vector<Candidate>> groups;
    for (const Candidate& candidate : found)
        groups[group_of(candidate)].push_back(candidate);
    found.clear();
    for (auto& [_, group] : groups) {
        std::stable_sort(group.begin(), group.end(), better);
        const std::size_t count = std::min<std::size_t>(group.size(), kDecoder.candidates);
        found.insert(found.end(), group.begin(), group.begin() + count);
    }
    return found;
}

// ----------------------------------------------------------------------------------------------------------- corners

float power(float number)
{
    return std::exp(std::min(number, kDecoder.largest_growth ? kDecoder.largest_growth : kLargestPower));
}

void set_centred(Box& box, float x, float y, float wide, float high)
{
    box.x1 = x - wide / 2;
    box.y1 = y - high / 2;
    box.x2 = x + wide / 2;
    box.y2 = y + high / 2;
}

// Sets the corners in pixels of the input from the numbers of a box. Anchor: null for formats without.
void set_corners(Box& box, const float* numbers, const Anchor* a)
{
    float n[4];
    std::vector<float> shares(kDecoder.bins);
    for (int i = 0; i < 4; i++) {
        n[i] = numbers[i];
        if (kDecoder.bins > 1) {
            softmax(numbers + i * kDecoder.bins, kDecoder.bins, shares.data());
            n[i] = 0;
            for (int bin = 0; bin < kDecoder.bins; bin++)
                n[i] += shares[bin] * static_cast<float>(bin);
        }
    }
    switch (kDecoder.boxes) {
    case Format::xyxy:
        box.x1 = n[0], box.y1 = n[1], box.x2 = n[2], box.y2 = n[3];
        break;
    case Format::cxcywh:
        set_centred(box, n[0], n[1], n[2], n[3]);
        break;
    case Format::deltas: // torchvision's BoxCoder
        for (int i = 0; i < 4; i++)
            n[i] /= a->weights[i];
        set_centred(box, a->x + n[0] * a->width, a->y + n[1] * a->height, a->width * power(n[2]), a->height * power(n[3]));
        break;
    case Format::distances: // torchvision's BoxLinearCoder
        box.x1 = a->x - n[0] * a->width, box.y1 = a->y - n[1] * a->height;
        box.x2 = a->x + n[2] * a->width, box.y2 = a->y + n[3] * a->height;
        break;
    case Format::edges: // MTCNN's bbreg
        box.x1 = a->x + (n[0] - 0.5f) * a->width, box.y1 = a->y + (n[1] - 0.5f) * a->height;
        box.x2 = a->x + (n[2] + 0.5f) * a->width, box.y2 = a->y + (n[3] + 0.5f) * a->height;
        break;
    case Format::yolov3:
        set_centred(box, a->x + (sigmoid(n[0]) - 0.5f) * a->step_x, a->y + (sigmoid(n[1]) - 0.5f) * a->step_y,
                    a->width * power(n[2]), a->height * power(n[3]));
        break;
    case Format::yolov5:
        for (float& number : n)
            number = 2 * sigmoid(number);
        set_centred(box, a->x + (n[0] - 1) * a->step_x, a->y + (n[1] - 1) * a->step_y, a->width * (n[2] * n[2]),
                    a->height * (n[3] * n[3]));
        break;
    }
    const bool clipped = kDecoder.height && kDecoder.width;
    for (auto [x, y] : {std::pair{&box.x1, &box.y1}, std::pair{&box.x2, &box.y2}}) {
        if (clipped) {
            *x = std::clamp(*x, 0.0f, static_cast<float>(kDecoder.width));
            *y = std::clamp(*y, 0.0f, static_cast<float>(kDecoder.height));
        }
        *x *= kDecoder.scale_x;
        *y *= kDecoder.scale_y;
    }
}

void set_points(Box& box, const float* numbers, const Anchor* a)
{
    for (int i = 0; i < kDecoder.keypoints; i++, numbers += kDecoder.numbers) {
        Point point{numbers[0], numbers[1], kDecoder.numbers > 2 ? numbers[2] : 1.0f};
        if (a && kDecoder.origin != Origin::image) {
            const float from = kDecoder.origin == Origin::corner ? -0.5f : 0.0f;
            point.x = a->x + (point.x / a->weights[0] + from) * a->width;
            point.y = a->y + (point.y / a->weights[1] + from) * a->height;
        }
        point.x *= kDecoder.scale_x;
        point.y *= kDecoder.scale_y;
        box.points.push_back(point);
    }
}

// A box, where it comes from, and which row it was.
struct Found {
    Box box;
    std::size_t tile, row;
};

// The boxes of a tile, in pixels of the input.
std::vector<Found> boxes_of(const Parts& parts, std::size_t tile)
{
    const std::vector<Anchor> anchors = anchors_for(parts);
    const Rows& numbers = parts.at(Column::boxes);
    std::vector<Found> found;
    for (const Candidate& candidate : candidates(parts)) {
        const Anchor* anchor = anchors.empty() ? nullptr : &anchors[candidate.row];
        const float* of_box = numbers[candidate.row];
        Box box{candidate.label, candidate.score, 0, 0, 0, 0, {}};
        if (const auto labels = parts.find(Column::label); labels != parts.end()) {
            const float label = *labels->second[candidate.row];
            box.index = std::isfinite(label) ? static_cast<int>(std::clamp(label, -1e6f, 1e6f)) : 0;
        }
        box.index += kDecoder.first_label;
        set_corners(box, of_box, anchor);
        if (const auto points = parts.find(Column::keypoints); points != parts.end())
            set_points(box, points->second[candidate.row], anchor);
        const auto finite = [](float value) { return std::isfinite(value); };
        if (std::all_of(of_box, of_box + numbers.wide, finite) && finite(box.x1) && finite(box.y1) && finite(box.x2) && finite(box.y2))
            found.push_back({box, tile, candidate.row});
    }
    return found;
}

// ------------------------------------------------------------------------------------------------------- suppression

float area(const Box& box)
{
    return (box.x2 - box.x1) * (box.y2 - box.y1);
}

// Intersection over union.
float overlap(const Box& a, const Box& b)
{
    const float wide = std::min(a.x2, b.x2) - std::max(a.x1, b.x1), high = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
    const float shared = std::max(wide, 0.0f) * std::max(high, 0.0f), all = area(a) + area(b) - shared;
    return all > 0 ? shared / all : 0;
}

// Greedy non-maximum suppression, as torchvision's batched_nms.
std::vector<Found> suppressed(std::vector<Found> found)
{
    const auto better = [](const Found& a, const Found& b) { return a.box.score > b.box.score; };
    std::stable_sort(found.begin(), found.end(), better);
    std::vector<bool> free(found.size(), true);
    std::map<int, int> of_class;
    std::vector<Found> kept;
    for (std::size_t best = 0; best < found.size(); best++) {
        if (!free[best])
            continue;
        kept.push_back(found[best]);
        if (static_cast<int>(kept.size()) == kDecoder.most)
            break;
        const int label = found[best].box.index;
        const bool full = ++of_class[label] == kDecoder.most_per_class;
        for (std::size_t other = best + 1; other < found.size(); other++) {
            const bool same = found[other].box.index == label;
            const bool rival = kDecoder.iou_threshold < 1 && (same || kDecoder.agnostic);
            if ((same && full) || (rival && free[other] && overlap(found[best].box, found[other].box) > kDecoder.iou_threshold))
                free[other] = false;
        }
    }
    return kept;
}

// ------------------------------------------------------------------------------------------------------------- masks

// The prototypes of a tile, and their size.
struct Prototypes {
    const Rows* pixels;
    int height, width;
};

// Gives the pixels of an object a number in the mask of the image: where the sum of the prototypes, weighted by the box's
// coefficients, is above zero inside the box. Source: process_mask of Ultralytics. `box` is in pixels of the tile's input.
void paint(Image& mask, std::uint8_t number, const Box& box, const float* weights, const Prototypes& from, const Placement& place)
{
    const float step = kDecoder.prototype_step;
    std::vector<bool> inside(std::size_t(from.height) * from.width);
    for (int y = 0; y < from.height; y++)
        for (int x = 0; x < from.width; x++) {
            const auto column = static_cast<float>(x), row = static_cast<float>(y);
            if (column < box.x1 / step || column >= box.x2 / step || row < box.y1 / step || row >= box.y2 / step)
                continue;
            const std::size_t at = std::size_t(y) * from.width + x;
            inside[at] = std::inner_product(weights, weights + kDecoder.prototypes, (*from.pixels)[at], 0.0f) > 0;
        }
    for (int row = 0; row < mask.height; row++) {
        const double y = std::floor(((row + 0.5) * place.height / mask.height + place.top) / step);
        for (int column = 0; column < mask.width && y >= 0 && y < from.height; column++) {
            const double x = std::floor(((column + 0.5) * place.width / mask.width + place.left) / step);
            if (x >= 0 && x < from.width && inside[std::size_t(y) * from.width + std::size_t(x)])
                mask.row(row)[column] = number;
        }
    }
}

// The mask of an image: the number of the object of each pixel, from 1; 0: none. Of objects beyond 255 there is no mask.
Image masks_of(const std::vector<Found>& found, const std::vector<Part>& tiles, const std::vector<Parts>& gathered)
{
    int output = 0;
    for (const Table& table : kDecoder.tables)
        if (table.columns.front() == Column::prototypes)
            output = table.output;
    const Placement& first = tiles.front().place;
    Image mask(first.image_width, first.image_height, 1);
    for (std::size_t number = std::min<std::size_t>(found.size(), 255); number > 0; number--) { // the best on top
        const auto& [moved, tile, row] = found[number - 1];
        const Placement& place = tiles[tile].place;
        const auto right = static_cast<float>(place.left - first.left), down = static_cast<float>(place.top - first.top);
        const Box box{0, 0, moved.x1 + right, moved.y1 + down, moved.x2 + right, moved.y2 + down, {}};
        const ncnn::Mat& maps = tiles[tile].outputs[output];
        const Prototypes from{&gathered[tile].at(Column::prototypes), maps.h, maps.w};
        paint(mask, static_cast<std::uint8_t>(number), box, gathered[tile].at(Column::coefficients)[row], from, place);
    }
    return mask;
}

// A box of the first tile's input in pixels of the image, of which it is a part.
Box on_image(Box box, const Placement& place)
{
    const auto x = [&](float at) { return static_cast<float>(place.image_x(at)); };
    const auto y = [&](float at) { return static_cast<float>(place.image_y(at)); };
    const auto width = static_cast<float>(place.image_width), height = static_cast<float>(place.image_height);
    box.x1 = std::clamp(x(box.x1), 0.0f, width);
    box.x2 = std::clamp(x(box.x2), 0.0f, width);
    box.y1 = std::clamp(y(box.y1), 0.0f, height);
    box.y2 = std::clamp(y(box.y2), 0.0f, height);
    for (Point& point : box.points)
        point = {x(point.x), y(point.y), point.seen};
    return box;
}

} // namespace

// ---------------------------------------------------------------------------------------------------------- the task

Prediction decode(const std::vector<Part>& tiles)
{
    std::vector<Parts> gathered;
    std::vector<Found> all;
    const Placement& first = tiles.front().place;
    for (const auto& [outputs, place] : tiles) {
        gathered.push_back(gather(outputs));
        const auto right = static_cast<float>(first.left - place.left), down = static_cast<float>(first.top - place.top);
        for (Found& found : boxes_of(gathered.back(), gathered.size() - 1)) { // where they would be in the first tile
            Box& box = found.box;
            box.x1 += right, box.x2 += right, box.y1 += down, box.y2 += down;
            for (Point& point : box.points)
                point.x += right, point.y += down;
            all.push_back(found);
        }
    }
    std::vector<Found> kept = suppressed(std::move(all));
    const auto in_padding = [&](const Found& found) {
        const Box box = on_image(found.box, first);
        return box.x1 >= box.x2 || box.y1 >= box.y2;
    };
    kept.erase(std::remove_if(kept.begin(), kept.end(), in_padding), kept.end());
    Prediction prediction;
    if (kDecoder.prototypes)
        prediction.image = masks_of(kept, tiles, gathered);
    for (const Found& found : kept)
        prediction.boxes.push_back(on_image(found.box, first));
    return prediction;
}

double agreement(const Prediction& ours, const Prediction& theirs)
{
    std::vector<bool> free(ours.boxes.size(), true);
    int matched = 0;
    for (const Box& box : theirs.boxes)
        for (std::size_t i = 0; i < free.size(); i++)
            if (free[i] && ours.boxes[i].index == box.index && overlap(ours.boxes[i], box) >= 0.5f) {
                free[i] = false;
                matched++;
                break;
            }
    const std::size_t most = std::max(ours.boxes.size(), theirs.boxes.size());
    return most ? double(matched) / double(most) : 1.0;
}

std::vector<std::string> lines(const Prediction& found, const std::vector<std::string>& labels, int)
{
    std::vector<std::string> text;
    for (const Box& box : found.boxes)
        text.push_back(class_name(labels, box.index) + " " + rounded(box.score) + " at " + rounded(box.x1) + ","
                       + rounded(box.y1) + " to " + rounded(box.x2) + "," + rounded(box.y2));
    if (text.empty())
        text.push_back("nothing was found");
    return text;
}

void describe(const Prediction& found, const std::vector<std::string>& labels, int, Json& json)
{
    std::vector<std::string> rows;
    for (const Box& box : found.boxes) {
        Json row;
        row.add("label", quoted(class_name(labels, box.index))).add("index", box.index).add("score", box.score);
        row.add("x1", box.x1).add("y1", box.y1).add("x2", box.x2).add("y2", box.y2);
        std::vector<std::string> points;
        for (const Point& point : box.points)
            points.push_back(listed({number(point.x), number(point.y), number(point.seen)}));
        if (kDecoder.keypoints)
            row.add("keypoints", listed(points));
        rows.push_back(row.text());
    }
    json.add("boxes", listed(rows));
}

void draw(const Prediction& found, const std::vector<std::string>& labels, Image& image)
{
    for (std::size_t i = 0; i < found.image.pixels.size(); i++)
        if (const int number = found.image.pixels[i])
            for (int c = 0; c < 3; c++)
                image.pixels[3 * i + c] = static_cast<std::uint8_t>((image.pixels[3 * i + c] + colour_of(number)[c]) / 2);
    for (auto box = found.boxes.rbegin(); box != found.boxes.rend(); ++box) { // the best on top
        const Colour colour = colour_of(box->index);
        outline(image, box->x1, box->y1, box->x2, box->y2, colour);
        for (const Point& point : box->points)
            if (point.seen >= 0.5f)
                dot(image, point.x, point.y, colour);
        write(image, box->x1, box->y1, class_name(labels, box->index) + " " + rounded(box->score), colour);
    }
}
