// Counts failed expectations. A test includes it once.
#pragma once

#include <cstdio>

inline int failures = 0;

inline void expect(bool holds, const char* what)
{
    if (!holds)
        std::printf("FAILED: %s\n", what);
    failures += !holds;
}
