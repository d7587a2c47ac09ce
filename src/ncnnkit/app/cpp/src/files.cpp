#include "files.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "failure.h"

Bytes read_file(const std::string& path)
{
    const MappedFile file(path);
    return Bytes(file.data(), file.data() + file.size());
}

void write_file(const std::string& path, const Bytes& bytes)
{
    std::FILE* file = std::fopen(path.c_str(), "wb");
    bool written = file && std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
    const int error = errno;
    written = file && std::fclose(file) == 0 && written;
    if (!written)
        throw Failure(path + ": cannot be written: " + std::strerror(error ? error : errno));
}

std::vector<std::string> lines_of(const std::string& path)
{
    std::ifstream file(path);
    std::vector<std::string> found;
    for (std::string line; std::getline(file, line);)
        found.push_back(line);
    return found;
}

bool is_folder(const std::string& path)
{
    struct stat status {};
    return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

bool ends_with(const std::string& text, const std::string& end)
{
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

MappedFile::MappedFile(const std::string& path)
{
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); // opening a pipe would block
    struct stat status {};
    std::string reason;
    if (file < 0 || fstat(file, &status) != 0)
        reason = std::strerror(errno);
    else if (!S_ISREG(status.st_mode))
        reason = "not a file";
    else if (status.st_size == 0)
        reason = "the file is empty";
    else {
        size_ = static_cast<std::size_t>(status.st_size);
        void* address = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
        if (address == MAP_FAILED)
            reason = std::strerror(errno);
        data_ = static_cast<const std::uint8_t*>(address);
    }
    if (file >= 0)
        close(file);
    if (!reason.empty())
        throw Failure(path + ": cannot be read: " + reason);
}

MappedFile::~MappedFile()
{
    munmap(const_cast<std::uint8_t*>(data_), size_);
}

void MappedFile::release(std::size_t begin, std::size_t end) const
{
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    begin = (begin + page - 1) / page * page;
    end = end / page * page;
    if (begin < end)
        madvise(const_cast<std::uint8_t*>(data_) + begin, end - begin, MADV_DONTNEED);
}

// Row k: the CRC of each byte followed by k zero bytes, so that eight bytes are processed at once.
constexpr auto kCrc = [] {
    std::array<std::array<std::uint32_t, 256>, 8> table{};
    for (std::uint32_t byte = 0; byte < 256; byte++) {
        std::uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? 0xEDB88320u : 0u);
        table[0][byte] = value;
    }
    for (std::size_t k = 1; k < 8; k++)
        for (std::size_t byte = 0; byte < 256; byte++)
            table[k][byte] = table[k - 1][byte] >> 8 ^ table[0][table[k - 1][byte] & 255];
    return table;
}();

void Crc32::add(const std::uint8_t* bytes, std::size_t size)
{
    for (; size >= 8; bytes += 8, size -= 8) {
        std::uint32_t next = 0;
        for (int k = 0; k < 4; k++)
            next ^= kCrc[7 - k][(bytes[k] ^ state_ >> 8 * k) & 255] ^ kCrc[3 - k][bytes[4 + k]];
        state_ = next;
    }
    for (; size > 0; bytes++, size--)
        state_ = state_ >> 8 ^ kCrc[0][(state_ ^ *bytes) & 255];
}
