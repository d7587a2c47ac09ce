// The best class comes first; classes with equal scores keep their order.
#include <algorithm>

#include "expect.h"
#include "task.h"

int main()
{
    ncnn::Mat mat(4);
    const float scores[] = {0.25f, 2.0f, -1.0f, 2.0f};
    std::copy(scores, scores + 4, static_cast<float*>(mat));
    const Prediction found = decode({{{mat}, {1, 1, 0, 0, 1, 1, 1, 1}}});
    expect(found.scores.size() == 4 && found.scores[0].index == 1 && found.scores[1].index == 3, "the order");
    expect(found.scores[0].value == 2.0f, "the score");
    expect(lines(found, {"a", "b", "c", "d"}, 1) == std::vector<std::string>{"2\tb"}, "the words");
    expect(agreement(found, found) == 1.0, "a prediction agrees with itself");
    return failures ? 1 : 0;
}
