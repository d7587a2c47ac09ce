// From an image to the network's input.
#pragma once

#include <array>
#include <string>
#include <vector>

#include <mat.h>

#include "description.h"
#include "image.h"

class Preprocessor {
public:
    Preprocessor(const Preprocess& preprocess, const std::vector<int>& shape);

    // The tensor of an image; it lives until the next call, which uses its memory again. Throws Failure where the
    // image, so prepared, does not have the network's input shape.
    const ncnn::Mat& operator()(const Image& image, const std::string& name);

private:
    const Image& in_color(const Image& image);
    const Image& resized(const Image& image, const std::string& name);
    void fill(const Image& image);

    Preprocess how_;
    std::vector<int> shape_;
    std::array<std::array<float, 256>, 3> values_; // of every pixel value, by channel
    Image colored_, resized_;
    ncnn::Mat tensor_;
};
