// The mask has the best class of each pixel.
#include <algorithm>

#include "expect.h"
#include "decoder.h"
#include "task.h"

int main()
{
    // Two rows and three columns; the class is 1 in the last column.
    const int classes = kAxis < 0 ? 1 : 2, axis = kAxis < 0 ? 0 : kAxis;
    std::vector<int> shape = {2, 3};
    shape.insert(shape.begin() + std::min(axis, 2), classes);
    ncnn::Mat mat(shape[2], shape[1], shape[0]);
    for (int c = 0; c < shape[0]; c++)
        for (int h = 0; h < shape[1]; h++)
            for (int w = 0; w < shape[2]; w++) {
                std::vector<int> place = {c, h, w};
                const int index = kAxis < 0 ? 1 : place[std::min(axis, 2)];
                place.erase(place.begin() + std::min(axis, 2));
                mat.channel(c).row(h)[w] = kThreshold + (index == (place[1] == 2) ? 1.0f : kAxis < 0 ? -1.0f : 0.0f);
            }
    if (kAxis < 0)
        for (int i = 0; i < 6; i++)
            mat.channel(0).row(i / 3)[i % 3] = kThreshold + (i % 3 == 2 ? 1.0f : -1.0f);
    std::vector<ncnn::Mat> outputs(kOutput + 1);
    outputs[kOutput] = mat;
    // An image of 4x6 pixels, which is resized to 2x3.
    const Prediction found = decode({{outputs, {2, 3, 0, 0, 2, 3, 4, 6}}});
    expect(found.image.width == 6 && found.image.height == 4, "the mask is as large as the image");
    for (int y = 0; y < found.image.height; y++)
        for (int x = 0; x < found.image.width; x++)
            expect(found.image.row(y)[x] == (x >= 4), "the class of a pixel");
    expect(agreement(found, found) == 1.0, "a prediction agrees with itself");
    return failures ? 1 : 0;
}
