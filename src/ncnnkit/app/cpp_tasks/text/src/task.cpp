// Text by connectionist temporal classification (CTC): the best class of each step, without repeats, then without the blank.
#include "task.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "decoder.h"
#include "draw.h"
#include "failure.h"
#include "tensor.h"

const char* const kPicture = "";
const bool kJoinsTiles = false;

namespace {

// The score of the best of some numbers.
double score(const std::vector<float>& numbers, float best)
{
    if (kScores == Activation::sigmoid)
        return 1 / (1 + std::exp(-double(best)));
    if (kScores == Activation::none)
        return best;
    double sum = 0;
    for (float number : numbers)
        sum += std::exp(double(number) - best);
    return 1 / sum;
}

} // namespace

Prediction decode(const std::vector<Part>& parts)
{
    const ncnn::Mat& output = parts.front().outputs[kOutput];
    const std::vector<float> values = values_of(output);
    const std::size_t known = std::accumulate(kShape.begin(), kShape.end(), std::size_t(1), std::multiplies<std::size_t>());
    const std::vector<int> shape = known == values.size() ? kShape : shape_of(output);
    const int axis = kAxis < 0 ? kAxis + static_cast<int>(shape.size()) : kAxis;
    if (axis < 0 || axis >= static_cast<int>(shape.size()))
        throw Failure("the output " + times(shape) + " has no axis of classes");
    std::size_t inner = 1;
    for (std::size_t i = axis + 1; i < shape.size(); i++)
        inner *= shape[i];
    const std::size_t classes = shape[axis];
    Prediction found;
    int before = kBlank;
    std::vector<float> numbers(classes);
    for (std::size_t step = 0; step < values.size() / classes; step++) {
        for (std::size_t i = 0; i < classes; i++)
            numbers[i] = values[(step / inner * classes + i) * inner + step % inner];
        const int best = static_cast<int>(std::max_element(numbers.begin(), numbers.end()) - numbers.begin());
        if (best != kBlank && best != before) {
            found.scores.push_back({best, static_cast<float>(score(numbers, numbers[best]))});
            found.text += static_cast<std::size_t>(best) < kAlphabet.size() ? kAlphabet[best] : "\xef\xbf\xbd"; // U+FFFD
            found.text_score += found.scores.back().value;
        }
        before = best;
    }
    if (!found.scores.empty())
        found.text_score /= double(found.scores.size());
    return found;
}

double agreement(const Prediction& ours, const Prediction& theirs)
{
    const auto same = [](const Score& a, const Score& b) { return a.index == b.index; };
    return std::equal(ours.scores.begin(), ours.scores.end(), theirs.scores.begin(), theirs.scores.end(), same);
}

std::vector<std::string> lines(const Prediction& found, const std::vector<std::string>&, int)
{
    return {rounded(found.text_score) + "\t" + found.text};
}

void describe(const Prediction& found, const std::vector<std::string>&, int, Json& json)
{
    std::vector<std::string> codes;
    for (const Score& character : found.scores)
        codes.push_back(std::to_string(character.index));
    json.add("text", quoted(found.text)).add("score", found.text_score).add("codes", listed(codes));
}

void draw(const Prediction& found, const std::vector<std::string>&, Image& image)
{
    write(image, 0, 0, found.text, colour_of(0));
}
