// Points are converted to pixels of the image.
#include <cmath>

#include "expect.h"
#include "decoder.h"
#include "task.h"

int main()
{
    ncnn::Mat mat(2 * kNumbers);
    for (int i = 0; i < 2 * kNumbers; i++)
        mat[i] = static_cast<float>(i + 1);
    std::vector<ncnn::Mat> outputs(kOutput + 1);
    outputs[kOutput] = mat;
    // The image lies in the input at half its size, from (3, 5) on.
    const Prediction found = decode({{outputs, {50, 50, 5, 3, 60, 60, 100, 100}}});
    expect(found.points.size() == 2, "two points");
    const float first_y = kApart ? 3.0f : 2.0f;
    expect(std::fabs(found.points[0].x - 2 * (kOffset[0] + kFactor[0] - 3)) < 1e-3f, "x");
    expect(std::fabs(found.points[0].y - 2 * (kOffset[1] + kFactor[1] * first_y - 5)) < 1e-3f, "y");
    expect(agreement(found, found) == 1.0, "a prediction agrees with itself");
    return failures ? 1 : 0;
}
