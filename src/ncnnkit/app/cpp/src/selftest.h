// --self-test: the examples beside models/, with what the original made of them.
#pragma once

#include "engine.h"
#include "options.h"
#include "task.h"

// An example, as N.txt says it: a line each for the file, the original's outputs and what it found.
struct Example {
    std::string file;
    std::vector<std::vector<double>> outputs; // the compared values of each
    bool answered = false; // whether it tells what was found
    Prediction found;
};

// Throws Failure where a line has other numbers than it must.
Example read_example(const std::string& path);

// Runs all examples and prints a table of figures and their bounds. Returns the exit status: 3 where a figure is outside
// its bound. Throws Failure.
int self_test(const Options& options, const Settings& settings, const ModelFiles& files);
