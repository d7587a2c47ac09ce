// Drawing onto an RGB image: rectangles, dots and text. Places are in pixels; what lies outside the image is
// left out.
#pragma once

#include <array>
#include <string>

#include "image.h"

using Colour = std::array<std::uint8_t, 3>;

// A colour for each class; neighbouring classes differ.
Colour colour_of(int index);

// How thick a line should be in an image of this size, pixels.
int thickness(const Image& image);

// The outline of a rectangle; a filled one.
void outline(Image& image, double x1, double y1, double x2, double y2, const Colour& colour);
void fill(Image& image, double x1, double y1, double x2, double y2, const Colour& colour);

// A square dot around a place.
void dot(Image& image, double x, double y, const Colour& colour);

// ASCII in capitals on a background of this colour; (x, y) is the upper left corner.
void write(Image& image, double x, double y, const std::string& text, const Colour& colour);
