// What ncnnkit knows of the model; model.h, which it generates, fills this in.
#pragma once

#include <vector>

#include "resize.h"

enum class Color { rgb, bgr, gray, rgba, bgra, array }; // array: no image

enum class Way { none, letterbox, right, multiple };
enum class Rounding { nearest, down, up }; // nearest: half to even

// A way to resize an image for an input that has another aspect ratio. letterbox: as large as fits, padded. right: to
// the height, padded to the right, squeezed where it is too wide. multiple: to sides that are multiples.
struct Fit {
    Way way;
    int height, width; // of the input; 0: the image's own
    bool centre; // else in the upper left corner
    bool filled; // padded with a pixel, preprocessed like all others; else the tensor is 0 there
    int fill[4]; // this pixel, by channel
    bool grow; // whether a letterbox enlarges small images
    Rounding rounding;
    int multiple; // what sides are multiples of
    int shorter, longer; // limits of the way multiple; 0: none
};

// How an image becomes the network's input. Pixels are resized, cropped and put in order; then
// (pixel / divisor - mean) / std.
struct Preprocess {
    int shorter_side; // becomes this long; 0: see height
    int height, width; // resize to exactly this, whatever the aspect ratio; 0: do not resize
    Fit fit; // instead of both
    Filter filter;
    bool may_swap; // of resizing's passes, see resize.h
    int crop_height, crop_width; // about the centre; 0: no crop
    bool tiles; // crops of that size side by side instead
    int overlap; // of tiles, at least
    Color color;
    bool channels_last; // of the tensor's axes
    bool arrays; // whether inputs that are arrays are normalised, too
    float divisor;
    std::vector<float> mean, std; // one value a channel

    int channels() const { return static_cast<int>(mean.size()); }
};

// ncnn's options for a precision, as the cards of the models say.
struct Precision {
    const char* name;
    bool use_fp16_packed, use_fp16_storage, use_fp16_arithmetic, use_bf16_packed, use_bf16_storage;
};

// What must be known of a type of layer that can hold weights of 8 bits. Numbers are ids of params; -1: there is none.
struct Int8Type {
    const char* name;
    int term; // says that the weights have 8 bits
    bool calibrated; // it reads int8, too
    bool chains; // it hands on int8 where the term is above kRequantised
    int pad_value; // what an int8 blob is padded with
    const char* widens; // the storage in which it computes but hands on fp32; empty: none
};

// How a .param says what is stored how.
struct StorageIds {
    const char* cast; // the type of layer that converts
    int type_from, type_to; // its params
    int fp16, bf16, int8; // values of these params
    int featmask; // param of any layer
    int no_fp16, no_bf16; // bits of its mask
};

struct Output {
    const char* blob;
    const char* file; // what distinguishes its file from those of other outputs
    int row; // values in a row of an output that has no rows where nothing was detected; 0: it always has values
};

struct Model {
    const char* name;
    const char* precision; // what it runs at, if no other is asked for
    const char* stem; // its files' name in models/
    const char* ncnn; // the version it was measured with; empty: not known
    const char* target; // the kernels it was made for; empty: any
    const char* input; // blob
    std::vector<int> shape; // of the input, channels first, without a batch axis
    std::vector<Output> outputs;
    bool takes_images;
    Preprocess preprocess; // of images; and of arrays, where it says so
};
