// Files: read whole, or mapped.
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

// The lines of a text; none where it cannot be read.
std::vector<std::string> lines_of(const std::string& path);

bool is_folder(const std::string& path);
bool ends_with(const std::string& text, const std::string& end);

// A file's pages, read by the kernel when they are touched and given back by it when memory is short.
class MappedFile {
public:
    // Throws Failure.
    explicit MappedFile(const std::string& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    const std::uint8_t* data() const { return data_; }
    std::size_t size() const { return size_; }

    // The pages of [begin, end) are not needed at once; touched again, they come from the file again.
    void release(std::size_t begin, std::size_t end) const;

private:
    const std::uint8_t* data_ = nullptr;
    std::size_t size_ = 0;
};

// CRC-32, as in gzip and zip, of bytes that come in pieces.
class Crc32 {
public:
    void add(const std::uint8_t* bytes, std::size_t size);
    std::uint32_t value() const { return ~state_; }

private:
    std::uint32_t state_ = ~std::uint32_t(0);
};
