// Repeated classes count once, and blanks separate them.
#include <algorithm>

#include "expect.h"
#include "decoder.h"
#include "task.h"

int main()
{
    // Classes other than the blank: a and b. Steps: a, a, blank, a, b.
    const int a = kBlank == 0 ? 1 : 0, b = kBlank <= 1 ? 2 : 1, classes = std::max({a, b, kBlank}) + 1;
    const int steps[] = {a, a, kBlank, a, b};
    const bool first = kAxis == 0; // the axis of the classes
    ncnn::Mat mat(first ? 5 : classes, first ? classes : 5);
    mat.fill(0.0f);
    for (int step = 0; step < 5; step++)
        mat.row(first ? steps[step] : step)[first ? step : steps[step]] = 1.0f;
    std::vector<ncnn::Mat> outputs(kOutput + 1);
    outputs[kOutput] = mat;
    const Prediction found = decode({{outputs, {1, 1, 0, 0, 1, 1, 1, 1}}});
    std::vector<int> codes;
    for (const Score& character : found.scores)
        codes.push_back(character.index);
    expect(codes == std::vector<int>{a, a, b}, "the characters");
    expect(!found.text.empty() && found.text_score > 0, "the text");
    expect(agreement(found, found) == 1.0, "a prediction agrees with itself");
    return failures ? 1 : 0;
}
