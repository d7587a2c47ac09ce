// The best class comes first, and of equal ones the first.
#include <algorithm>
#include <cstdio>

#include "task.h"

namespace {

int failures = 0;

void check(bool holds, const char* what)
{
    if (!holds)
        std::printf("FAILED: %s\n", what);
    failures += !holds;
}

} // namespace

int main()
{
    ncnn::Mat mat(4);
    const float scores[] = {0.25f, 2.0f, -1.0f, 2.0f};
    std::copy(scores, scores + 4, static_cast<float*>(mat));
    const Prediction found = decode({{{mat}, {1, 1, 0, 0, 1, 1, 1, 1}}});
    check(found.scores.size() == 4 && found.scores[0].index == 1 && found.scores[1].index == 3, "the order");
    check(found.scores[0].value == 2.0f, "the score");
    check(lines(found, {"a", "b", "c", "d"}, 1) == std::vector<std::string>{"2\tb"}, "the words");
    check(agreement(found, found) == 1.0, "a prediction agrees with itself");
    return failures ? 1 : 0;
}
