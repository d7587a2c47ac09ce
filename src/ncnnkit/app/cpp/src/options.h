// The command line.
#pragma once

#include <string>
#include <vector>

#include "engine.h"

struct Options {
    std::string param, bin; // empty: the program's own model
    std::string input;
    std::string output; // empty: not written
    std::string compare; // empty: with nothing
    const Precision* precision = nullptr; // null: the model's
    Gpu gpu = Gpu::none;
    Cluster cluster = Cluster::big;
    int threads = 0; // 0: as many as the cluster has cores
    int loop = 10;
    int top = 5;
    int tile = -1; // of the image; -1: all
    std::string draw; // empty: nothing is drawn
    bool self_test = false;
    bool json = false;
    bool checked = true; // model files must be as they were written
    bool streams = false;
    std::string split; // of the streams; empty: the fastest is found by measuring
    bool help = false;
};

extern const char kUsage[];

// Throws UsageError.
const Precision* precision_named(const std::string& name);
Settings settings_of(const Options& options, const ModelFiles& files);
Options parse(const std::vector<std::string>& arguments);
