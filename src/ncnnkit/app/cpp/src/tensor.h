// Tensors: what is in one, and a file of it.
#pragma once

#include <string>
#include <vector>

#include <mat.h>

// The values in order, and the shape, without ncnn's gaps between channels.
std::vector<float> values_of(const ncnn::Mat& mat);
std::vector<int> shape_of(const ncnn::Mat& mat);

// Writes float32: .npy, or text with a number a line. Throws Failure.
void write_tensor(const std::string& path, const ncnn::Mat& mat);

// A shape as people write it: 3x224x224.
std::string times(const std::vector<int>& shape);
