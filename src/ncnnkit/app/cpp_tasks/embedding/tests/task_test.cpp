// The vector gets length 1.
#include <cmath>

#include "expect.h"
#include "decoder.h"
#include "task.h"

int main()
{
    ncnn::Mat mat(2);
    mat[0] = 3.0f;
    mat[1] = 4.0f;
    std::vector<ncnn::Mat> outputs(kOutput + 1);
    outputs[kOutput] = mat;
    const Prediction found = decode({{outputs, {1, 1, 0, 0, 1, 1, 1, 1}}});
    expect(std::fabs(found.embedding[0] - 0.6f) < 1e-6f && std::fabs(found.embedding[1] - 0.8f) < 1e-6f, "the vector");
    expect(std::fabs(agreement(found, found) - 1.0) < 1e-6, "a prediction agrees with itself");
    return failures ? 1 : 0;
}
