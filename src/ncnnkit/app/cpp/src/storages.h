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

// The params of a layer with plain values, as 0=224, by what a line of a .param says.
class Params {
public:
    explicit Params(const std::string& line) : line_(line) {}
    double operator[](int id) const; // 0 where it is not given

private:
    const std::string& line_;
};

struct Int8Type;

// The facts of the type of a .param's layer; null where it cannot hold weights of 8 bits.
const Int8Type* int8_type(const std::string& line);
