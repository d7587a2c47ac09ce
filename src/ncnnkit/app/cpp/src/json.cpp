#include "json.h"

#include <cmath>
#include <cstdio>

namespace {

template <typename... Values>
std::string format(const char* how, Values... values)
{
    char text[64];
    std::snprintf(text, sizeof text, how, values...);
    return text;
}

} // namespace

Json& Json::add(const std::string& name, const std::string& value)
{
    fields_ += (fields_.empty() ? "" : ", ") + quoted(name) + ": " + value;
    return *this;
}

Json& Json::add(const std::string& name, double value)
{
    return add(name, number(value));
}

std::string quoted(const std::string& text)
{
    std::string out = "\"";
    for (char c : text)
        if (c == '"' || c == '\\')
            out += {'\\', c};
        else if (static_cast<unsigned char>(c) < 0x20)
            out += format("\\u%04x", static_cast<unsigned>(c));
        else
            out += c;
    return out + '"';
}

std::string listed(const std::vector<std::string>& values)
{
    std::string out;
    for (const std::string& value : values)
        out += (out.empty() ? "" : ", ") + value;
    return "[" + out + "]";
}

std::string number(double value)
{
    return std::isfinite(value) ? format("%.9g", value) : "null"; // JSON has no NaN and no infinity
}

std::string rounded(double value)
{
    return format(std::fabs(value) >= 1000 ? "%.0f" : "%.4g", value);
}

std::string class_name(const std::vector<std::string>& labels, int index)
{
    const bool named = index >= 0 && static_cast<std::size_t>(index) < labels.size();
    return named ? labels[index] : "class " + std::to_string(index);
}
