// Classification: one vector of scores, the best of which names the class.
#include "task.h"

#include <algorithm>
#include <numeric>

#include "draw.h"
#include "tensor.h"

const char* const kPicture = "";
const bool kJoinsTiles = false;

Prediction decode(const std::vector<Part>& parts)
{
    const std::vector<float> values = values_of(parts.front().outputs.front());
    std::vector<int> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return values[a] > values[b]; });
    Prediction found;
    for (int index : order)
        found.scores.push_back({index, values[index]});
    return found;
}

double agreement(const Prediction& ours, const Prediction& theirs)
{
    return ours.scores.front().index == theirs.scores.front().index;
}

namespace {

std::vector<Score> best(const Prediction& found, int top)
{
    return {found.scores.begin(), found.scores.begin() + std::min<std::size_t>(top, found.scores.size())};
}

// Names that are not one for each class are of something else.
std::string label(const Prediction& found, const std::vector<std::string>& labels, int index)
{
    return class_name(labels.size() == found.scores.size() ? labels : std::vector<std::string>(), index);
}

} // namespace

std::vector<std::string> lines(const Prediction& found, const std::vector<std::string>& labels, int top)
{
    std::vector<std::string> text;
    for (const Score& score : best(found, top))
        text.push_back(rounded(score.value) + "\t" + label(found, labels, score.index));
    return text;
}

void describe(const Prediction& found, const std::vector<std::string>& labels, int top, Json& json)
{
    std::vector<std::string> rows;
    for (const Score& score : best(found, top))
        rows.push_back(Json().add("index", score.index).add("label", quoted(label(found, labels, score.index)))
                           .add("score", score.value).text());
    json.add("top", listed(rows));
}

void draw(const Prediction& found, const std::vector<std::string>& labels, Image& image)
{
    const Score& best = found.scores.front();
    write(image, 0, 0, label(found, labels, best.index) + " " + rounded(best.value), colour_of(best.index));
}
