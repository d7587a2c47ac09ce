// --self-test: the examples beside models/, with what the original made of them.
#pragma once

#include "engine.h"
#include "options.h"

// Runs all examples and prints a table of figures and their bounds. Returns the exit status: 3 where a figure is outside
// its bound. Throws Failure.
int self_test(const Options& options, const Settings& settings, const ModelFiles& files);
