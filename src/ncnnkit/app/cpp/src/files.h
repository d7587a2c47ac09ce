// Reading, mapping and writing files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

using Bytes = std::vector<std::uint8_t>;

// The content of a file. Throws Failure.
Bytes read_file(const std::string& path);

// Writes a file. Throws Failure.
void write_file(const std::string& path, const Bytes& bytes);

// The lines of a text file; empty if it cannot be read.
std::vector<std::string> lines_of(const std::string& path);

bool is_folder(const std::string& path);
bool ends_with(const std::string& text, const std::string& end);

// A memory-mapped file. The kernel reads pages on first access, and may drop them when memory is short.
class MappedFile {
public:
    // Throws Failure.
    explicit MappedFile(const std::string& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    const std::uint8_t* data() const { return data_; }
    std::size_t size() const { return size_; }

    // Drops the pages of [begin, end) from memory. On the next access, they are read from the file again.
    void release(std::size_t begin, std::size_t end) const;

private:
    const std::uint8_t* data_ = nullptr;
    std::size_t size_ = 0;
};

// CRC-32, as in gzip and zip, computed piece by piece.
class Crc32 {
public:
    void add(const std::uint8_t* bytes, std::size_t size);
    std::uint32_t value() const { return ~state_; }

private:
    std::uint32_t state_ = ~std::uint32_t(0);
};
