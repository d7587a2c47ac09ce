// Text for programs and for people.
#pragma once

#include <string>
#include <vector>

// A JSON object, written field by field. Values are JSON already.
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

// A number as people read it: four digits.
std::string rounded(double value);

// The name of a class.
std::string class_name(const std::vector<std::string>& labels, int index);
