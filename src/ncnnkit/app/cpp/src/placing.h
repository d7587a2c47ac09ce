// Where an image lies in the network's input.
#pragma once

struct Placement {
    int height, width; // of the resized image
    int top, left; // its upper left corner in the input; negative if it is cropped
    int input_height, input_width;
    int image_height, image_width; // of the original image

    // Convert a coordinate in the input to pixels of the image.
    double image_x(double x) const { return (x - left) * (double(image_width) / width); }
    double image_y(double y) const { return (y - top) * (double(image_height) / height); }
};
