// An input of the network: an image, perhaps cut into tiles, or an array.
#pragma once

#include <string>
#include <vector>

#include <mat.h>

#include "files.h"
#include "image.h"
#include "placing.h"

struct Input {
    std::string name;
    Image image; // without pixels: an array
    ncnn::Mat array;
    std::vector<Placement> places; // where the image lies in the network's input: one, or one for each tile
    double read_ms; // how long reading and decoding the file took
};

// From the content of a file, or, where that is empty, from the file of this name. tile: which one of an image that is
// cut into tiles; -1: all. Throws Failure.
Input read_input(const std::string& name, const Bytes& file = {}, int tile = -1);
