// How the machine is split among workers.
#pragma once

#include <string>
#include <vector>

#include "engine.h"

struct Lane {
    bool gpu;
    Cluster cluster; // of the thread, also where it only feeds the GPU
    int threads;
};

using Split = std::vector<Lane>;

// As big:4,little:4,gpu. Throws UsageError.
Split parse_split(const std::string& text);

std::string to_text(const Split& split);

// Splits worth measuring on this machine; the first is one stream, as `--cluster` and `--threads` ask for it.
std::vector<Split> candidates(Cluster cluster, int threads, bool gpu);
