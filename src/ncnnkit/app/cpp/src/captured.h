// Captures what ncnn writes to stderr during the lifetime of the object. If something fails, this is the reason.
#pragma once

#include <cstdio>
#include <cstring>
#include <string>
#include <unistd.h>

class Captured {
public:
    Captured() : file_(std::tmpfile()), stderr_(file_ ? dup(2) : -1)
    {
        std::fflush(stderr);
        if (stderr_ >= 0)
            dup2(fileno(file_), 2);
    }
    ~Captured()
    {
        std::fflush(stderr);
        if (stderr_ >= 0) {
            dup2(stderr_, 2);
            close(stderr_);
        }
        if (file_)
            std::fclose(file_);
    }
    Captured(const Captured&) = delete;
    Captured& operator=(const Captured&) = delete;

    // The first captured line.
    std::string line() const
    {
        char text[200] = "";
        if (file_)
            std::rewind(file_);
        if (!file_ || !std::fgets(text, sizeof text, file_))
            return "ncnn gives no reason";
        text[std::strcspn(text, "\n")] = '\0';
        return text;
    }

private:
    std::FILE* file_;
    int stderr_;
};
