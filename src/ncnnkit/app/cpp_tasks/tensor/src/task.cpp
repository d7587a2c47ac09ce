// Outputs of unknown meaning: their shapes and values.
#include "task.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "model.h"
#include "tensor.h"

Prediction decode(const std::vector<Part>& parts)
{
    Prediction found;
    for (const ncnn::Mat& output : parts.front().outputs) {
        const std::vector<float> values = values_of(output);
        Summary summary{shape_of(output), 0, 0, 0};
        if (!values.empty()) {
            const auto [least, most] = std::minmax_element(values.begin(), values.end());
            summary.min = *least;
            summary.max = *most;
            summary.mean = std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
        }
        found.outputs.push_back(summary);
    }
    return found;
}

double agreement(const Prediction& ours, const Prediction& theirs)
{
    // 1 if the mean of every output is within a hundredth of its range, else 0.
    double share = 1;
    for (std::size_t i = 0; i < theirs.outputs.size(); i++) {
        const Summary &a = ours.outputs[i], &b = theirs.outputs[i];
        share = std::min(share, double(std::fabs(a.mean - b.mean) <= 0.01 * (b.max - b.min)));
    }
    return share;
}

std::vector<std::string> lines(const Prediction& found, const std::vector<std::string>&)
{
    std::vector<std::string> text;
    for (std::size_t i = 0; i < found.outputs.size(); i++) {
        const Summary& output = found.outputs[i];
        text.push_back(std::string(kModel.outputs[i].blob) + ": " + times(output.shape) + ", from " + rounded(output.min) + " to "
                       + rounded(output.max) + ", mean " + rounded(output.mean));
    }
    return text;
}

void describe(const Prediction& found, const std::vector<std::string>&, Json& json)
{
    std::vector<std::string> rows;
    for (std::size_t i = 0; i < found.outputs.size(); i++) {
        const Summary& output = found.outputs[i];
        std::vector<std::string> shape;
        for (int side : output.shape)
            shape.push_back(std::to_string(side));
        rows.push_back(Json().add("name", quoted(kModel.outputs[i].blob)).add("shape", listed(shape)).add("min", output.min)
                           .add("mean", output.mean).add("max", output.max).text());
    }
    json.add("outputs", listed(rows));
}
