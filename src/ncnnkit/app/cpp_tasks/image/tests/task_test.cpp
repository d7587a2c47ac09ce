// Values become pixels, and padding is cut off.

#include "expect.h"
#include "decoder.h"
#include "task.h"

int main()
{
    ncnn::Mat mat(4, 4, 3);
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 16; i++)
            mat.channel(c).row(i / 4)[i % 4] = i / 4 < 2 ? kWhite : kBlack;
    std::vector<ncnn::Mat> outputs(kOutput + 1);
    outputs[kOutput] = mat;
    // The image is the upper three of four rows, and is not resized.
    const Prediction found = decode({{outputs, {3, 4, 0, 0, 4, 4, 3, 4}}});
    expect(found.image.width == 4 && found.image.height == 3 && found.image.channels == 3, "the size");
    expect(found.image.row(1)[0] == 255 && found.image.row(2)[0] == 0, "white and black");
    expect(agreement(found, found) == 1.0, "a prediction agrees with itself");
    return failures ? 1 : 0;
}
