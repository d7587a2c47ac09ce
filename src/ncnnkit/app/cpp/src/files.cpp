#include "files.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "failure.h"

namespace {

// An open file, and how long it is.
struct File {
    explicit File(const std::string& path) : descriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC))
    {
        struct stat status {};
        // A pipe would be waited for without end, a folder cannot be read.
        if (descriptor < 0 || fstat(descriptor, &status) != 0)
            fail(path, std::strerror(errno));
        if (!S_ISREG(status.st_mode))
            fail(path, "not a file");
        if (status.st_size == 0)
            fail(path, "the file is empty");
        size = static_cast<std::size_t>(status.st_size);
    }
    ~File()
    {
        if (descriptor >= 0)
            close(descriptor);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    [[noreturn]] void fail(const std::string& path, const char* reason)
    {
        if (descriptor >= 0)
            close(descriptor);
        throw Failure(path + ": cannot be read: " + reason);
    }

    int descriptor;
    std::size_t size = 0;
};

// Row k: the CRC of each byte with k bytes of zeros behind it, so that eight bytes are looked up at once.
constexpr std::array<std::array<std::uint32_t, 256>, 8> crc_table()
{
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
}

constexpr auto kCrc = crc_table();

} // namespace

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

Bytes read_file(const std::string& path)
{
    File file(path);
    Bytes bytes(file.size);
    std::size_t done = 0;
    while (done < bytes.size()) {
        const ssize_t count = read(file.descriptor, bytes.data() + done, bytes.size() - done);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            throw Failure(path + ": cannot be read: " + (count < 0 ? std::strerror(errno) : "it became shorter"));
        done += static_cast<std::size_t>(count);
    }
    return bytes;
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

Bytes read_if_there(const std::string& path)
{
    try {
        return read_file(path);
    } catch (const Failure&) {
        return {};
    }
}

void write_if_possible(const std::string& path, const Bytes& bytes)
{
    std::error_code error;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
    const std::string part = path + "." + std::to_string(getpid());
    std::ofstream(part, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
    if (std::filesystem::file_size(part, error) == bytes.size() && !error)
        std::filesystem::rename(part, path, error);
    std::filesystem::remove(part, error);
}

bool is_folder(const std::string& path)
{
    struct stat status {};
    return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

MappedFile::MappedFile(const std::string& path)
{
    File file(path);
    void* address = mmap(nullptr, file.size, PROT_READ, MAP_PRIVATE, file.descriptor, 0);
    if (address == MAP_FAILED)
        throw Failure(path + ": cannot be mapped: " + std::strerror(errno));
    data_ = static_cast<const std::uint8_t*>(address);
    size_ = file.size;
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
