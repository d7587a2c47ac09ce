// JSON, and numbers as text.
#pragma once

#include <string>
#include <vector>

// A JSON object, written field by field. Values must be JSON.
class Json {
public:
    Json& add(const std::string& name, const std::string& value);
    Json& add(const std::string& name, double value);
    std::string text() const { return "{" + fields_ + "}"; }

private:
    std::string fields_;
};

std::string quoted(const std::string& text);
std::string listed(const std::vector<std::string>& values);
std::string number(double value);

// A number with four significant digits.
std::string rounded(double value);

// The name of a class, or "class N" if it has none.
std::string class_name(const std::vector<std::string>& labels, int index);
