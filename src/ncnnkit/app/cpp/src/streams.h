// Throughput: several workers in parallel, on the clusters of the CPU and on the GPU.
#pragma once

#include "engine.h"
#include "options.h"

// Runs all images of options.input and prints an answer for each, in order. Returns the exit status: 1 if an image could
// not be used, 130 if it was interrupted. Throws Failure.
int stream(const Options& options, const Settings& settings, const ModelFiles& files);
