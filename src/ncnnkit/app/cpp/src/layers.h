// Lines of a .param.
#pragma once

#include <cstdlib>
#include <string>

#include "model.h"

// The params of a layer with plain values, as 0=224, by what its line says.
class Params {
public:
    explicit Params(const std::string& line) : line_(line) {}

    // 0 where it is not given.
    double operator[](int id) const
    {
        const std::string key = " " + std::to_string(id) + "=";
        const std::size_t at = line_.find(key);
        return at == std::string::npos ? 0.0 : std::strtod(line_.c_str() + at + key.size(), nullptr);
    }

private:
    const std::string& line_;
};

// The facts of the type of a layer; null where it cannot hold weights of 8 bits.
inline const Int8Type* int8_type(const std::string& line)
{
    for (const Int8Type& type : kInt8Types)
        if (line.rfind(std::string(type.name) + " ", 0) == 0)
            return &type;
    return nullptr;
}
