// What ncnnkit knows of the model; model.h, which it generates, fills this in.
#pragma once

#include <vector>

#include "resize.h"

enum class Color { rgb, bgr, gray };

// How an image becomes the network's input. Pixels are resized, cropped about the centre and put in order; then
// (pixel / divisor - mean) / std.
struct Preprocess {
    int shorter_side; // becomes this long; 0: see height
    int height, width; // resize to exactly this, whatever the aspect ratio; 0: do not resize
    Filter filter;
    bool may_swap; // of resizing's passes, see resize.h
    int crop_height, crop_width; // 0: no crop
    Color color;
    float divisor;
    float mean[3], std[3];

    int channels() const { return color == Color::gray ? 1 : 3; }
};

// Which storages and arithmetics ncnn may use: its own default is fp16 wherever it can.
struct Precision {
    const char* name;
    bool fp16, bf16;
};

struct Model {
    const char* name;
    const char* variant;
    const char* precision; // the variant's own, if no other is asked for
    const char* input; // blob
    std::vector<int> shape; // of the input, channels first, without a batch axis
    std::vector<const char*> outputs; // blobs
    bool takes_images;
    Preprocess preprocess; // where it does
};
