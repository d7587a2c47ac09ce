// Where an image lies in the network's input.
#pragma once

#include <string>
#include <vector>

#include "description.h"

struct Placement {
    int height, width; // of the resized image
    int top, left; // where it begins in the input; negative where it is cropped
    int input_height, input_width;
};

// One placement of an image of this size, or one for each tile. Throws Failure, naming the image by `name`.
std::vector<Placement> places(const Preprocess& how, int height, int width, const std::string& name);
