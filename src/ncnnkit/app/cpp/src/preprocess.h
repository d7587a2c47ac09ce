// From an image to the network's input.
#pragma once

#include <array>
#include <string>
#include <vector>

#include <mat.h>

#include "description.h"
#include "image.h"
#include "placing.h"

class Preprocessor {
public:
    Preprocessor(const Preprocess& preprocess, const std::vector<int>& shape);

    // The tensor of an image that lies so in the input, whose shape it must have; it lives until the next call, which
    // uses its memory again.
    const ncnn::Mat& operator()(const Image& image, const Placement& place);

private:
    const Image& in_color(const Image& image);
    const Image& resized(const Image& image, const Placement& place);
    void fill(const Image& image, const Placement& place);

    Preprocess how_;
    std::vector<std::array<float, 256>> values_; // of every pixel value, by channel
    std::vector<float> outside_; // what the image does not cover, by channel
    Image colored_, resized_;
    ncnn::Mat tensor_;
};

// The tensor of an array in a file, which is normalised where `how` says so. Throws Failure.
ncnn::Mat prepare_array(const std::string& path, const Preprocess& how, const std::vector<int>& shape);
