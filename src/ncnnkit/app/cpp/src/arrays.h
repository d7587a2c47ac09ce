// Inputs that are arrays: .npy files, and text of numbers.
#pragma once

#include <string>
#include <vector>

#include <mat.h>

#include "files.h"

// Whether a file is read as an array: its name ends in .npy, .txt or .csv.
bool is_array(const std::string& path);

// Reads an array of this shape, with or without a batch axis of 1. Throws Failure with the reason, without the file's name.
ncnn::Mat read_array(const std::string& name, const Bytes& file, const std::vector<int>& shape);
