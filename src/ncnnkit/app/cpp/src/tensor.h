// Arrays: .npy files, and text of numbers.
#pragma once

#include <string>
#include <vector>

#include <mat.h>

// Whether a file is read as an array: its name ends in .npy, .txt or .csv.
bool is_array(const std::string& path);

// An array of this shape, with or without a batch axis of 1, as ncnn's Mat. Throws Failure.
ncnn::Mat read_tensor(const std::string& path, const std::vector<int>& shape);

// Writes float32: .npy, or text with a number a line. Throws Failure.
void write_tensor(const std::string& path, const ncnn::Mat& mat);

// The values in order, and the shape, without ncnn's gaps between channels.
std::vector<float> values_of(const ncnn::Mat& mat);
std::vector<int> shape_of(const ncnn::Mat& mat);

// A detector's output where nothing was detected: no rows of so many values.
ncnn::Mat no_rows(int row);

// The mean squared difference from the array in a .npy or text file of as many values. Throws Failure.
double mean_squared_error(const ncnn::Mat& mat, const std::string& path);

// A shape as people write it: 3x224x224.
std::string times(const std::vector<int>& shape);
