// Tensors: their values, shapes and files.
#pragma once

#include <string>
#include <vector>

#include <mat.h>

// The values in order, without ncnn's gaps between channels, and the shape, outermost axis first.
std::vector<float> values_of(const ncnn::Mat& mat);
std::vector<int> shape_of(const ncnn::Mat& mat);

// Writes float32 as .npy, or as text with one number per line. Throws Failure.
void write_tensor(const std::string& path, const ncnn::Mat& mat);

// A shape as text, such as 3x224x224.
std::string times(const std::vector<int>& shape);
