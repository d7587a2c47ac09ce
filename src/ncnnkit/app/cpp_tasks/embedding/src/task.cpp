// Embedding: a vector of length 1. The similarity of two inputs is the scalar product of their vectors.
#include "task.h"

#include <cmath>
#include <numeric>

#include "decoder.h"
#include "tensor.h"

Prediction decode(const std::vector<Part>& parts)
{
    Prediction found;
    found.embedding = values_of(parts.front().outputs[kOutput]);
    double squares = 0;
    for (float value : found.embedding)
        squares += double(value) * value;
    const auto length = static_cast<float>(std::sqrt(squares));
    for (float& value : found.embedding)
        value = length > 0 && std::isfinite(length) ? value / length : 0; // zeros have no direction
    return found;
}

double agreement(const Prediction& ours, const Prediction& theirs)
{
    const std::vector<float>&a = ours.embedding, &b = theirs.embedding;
    return a.size() == b.size() ? std::inner_product(a.begin(), a.end(), b.begin(), 0.0) : 0.0;
}

std::vector<std::string> lines(const Prediction& found, const std::vector<std::string>&)
{
    std::string text = "a vector of " + std::to_string(found.embedding.size()) + " numbers:";
    for (std::size_t i = 0; i < found.embedding.size() && i < 4; i++)
        text += " " + rounded(found.embedding[i]);
    return {text + (found.embedding.size() > 4 ? " …" : "")};
}

void describe(const Prediction& found, const std::vector<std::string>&, Json& json)
{
    std::vector<std::string> numbers;
    for (float value : found.embedding)
        numbers.push_back(number(value));
    json.add("embedding", listed(numbers));
}
