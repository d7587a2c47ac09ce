// Whether ncnn reads each blob as what it is.
#pragma once

#include <string>

#include <net.h>

struct Precisions {
    std::string asked, own; // what the network is loaded for, and what the model is made for
};

// Refuses a loaded network in which a blob, or an output, would be read as another type than it has: a model that was made
// for another CPU, ncnn, backend or precision. Throws Failure, which says what is here and what the model needs.
//
// ncnn takes 16 bits for what the reader's options allow, a Cast believes its type_from, and nothing is checked.
void check_storages(const std::string& param, const ncnn::Net& net, const Precisions& precisions, bool on_gpu);
