// Checks that ncnn reads each blob as the type that it has.
#pragma once

#include <string>

#include <net.h>

struct Precisions {
    std::string asked, own; // the precision for which the network is loaded, and the one for which the model was made
};

// Refuses a loaded network in which a blob or an output would be read as a type that it does not have, because the model
// was made for another CPU, ncnn, backend or precision. Throws Failure, which names the conditions here and those needed.
//
// ncnn does not check types: a layer reads 16 bits as the type that its options allow, and a Cast as its type_from.
void check_storages(const std::string& param, const ncnn::Net& net, const Precisions& precisions, bool on_gpu);
