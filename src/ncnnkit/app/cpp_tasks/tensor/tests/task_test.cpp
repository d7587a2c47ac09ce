// Shapes and values are reported.
#include <algorithm>

#include "expect.h"
#include "task.h"

int main()
{
    ncnn::Mat mat(2, 2);
    const float values[] = {1.0f, 2.0f, 3.0f, 6.0f};
    std::copy(values, values + 4, static_cast<float*>(mat));
    const Prediction found = decode({{{mat}, {1, 1, 0, 0, 1, 1, 1, 1}}});
    const Summary& output = found.outputs.front();
    expect(output.shape == std::vector<int>{2, 2} && output.min == 1 && output.mean == 3 && output.max == 6, "the values");
    expect(agreement(found, found) == 1.0, "a prediction agrees with itself");
    return failures ? 1 : 0;
}
