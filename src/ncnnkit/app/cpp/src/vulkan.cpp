#include "vulkan.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <unistd.h>

#include <gpu.h>

#include "captured.h"
#include "failure.h"
#include "files.h"

#if NCNN_VULKAN

namespace {

// Of two functions with the same name, the second is chosen if this ncnn lacks what the first one uses: files of
// pipelines exist since 2026-05. ncnn refuses a file that another ncnn, driver or device wrote.
template <typename Cache>
auto read(const Cache& cache, const Bytes& file, int) -> decltype(cache.load_cache(file.data(), file.size()) == 0)
{
    return cache.load_cache(file.data(), file.size()) == 0;
}
template <typename Cache>
bool read(const Cache&, const Bytes&, long)
{
    return false;
}
template <typename Cache>
auto write(const Cache& cache, Bytes& file, int) -> decltype(cache.save_cache(file) == 0)
{
    return cache.save_cache(file) == 0;
}
template <typename Cache>
bool write(const Cache&, Bytes&, long)
{
    return false;
}

// The index and the name of a GPU. Throws Failure if there is none.
std::pair<int, std::string> find(Gpu wanted)
{
    constexpr int software = 3; // VK_PHYSICAL_DEVICE_TYPE_CPU as ncnn numbers it
    std::string seen;
    Captured captured; // ncnn lists what each device can do
    if (ncnn::create_gpu_instance() == 0)
        for (int i = 0; i < ncnn::get_gpu_count(); i++) {
            const ncnn::GpuInfo& info = ncnn::get_gpu_info(i);
            if (wanted == Gpu::any || info.type() != software)
                return {i, info.device_name()};
            seen = info.device_name();
        }
    if (!seen.empty())
        throw Failure("--gpu: the only Vulkan device is the CPU (" + seen + "); --gpu=any uses it anyway");
    throw Failure("--gpu: there is no Vulkan device here: is its driver installed?");
}

} // namespace

std::string Pipelines::open(ncnn::Net& net, Gpu wanted, const std::string& model, const std::string& precision)
{
    const auto [index, name] = find(wanted);
    net.set_vulkan_device(index);
    cache_ = std::make_unique<ncnn::PipelineCache>(ncnn::get_gpu_device(index));
    net.opt.pipeline_cache = cache_.get();
    const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
    const std::string folder = cache && *cache ? cache : home && *home ? std::string(home) + "/.cache" : "";
    const std::string file = std::filesystem::path(model).stem().string() + "-" + precision + ".vkcache";
    file_ = folder.empty() ? "" : folder + "/ncnn-infer/" + file;
    return name;
}

bool Pipelines::load()
{
    std::error_code error;
    return std::filesystem::file_size(file_, error) > 0 && !error && read(*cache_, read_file(file_), 0);
}

void Pipelines::save() const
{
    Bytes bytes;
    if (file_.empty() || !write(*cache_, bytes, 0))
        return;
    std::error_code error;
    std::filesystem::create_directories(std::filesystem::path(file_).parent_path(), error);
    const std::string part = file_ + "." + std::to_string(getpid()); // renamed when it is complete
    std::ofstream(part, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
    if (std::filesystem::file_size(part, error) == bytes.size() && !error)
        std::filesystem::rename(part, file_, error);
    std::filesystem::remove(part, error);
}

#else

std::string Pipelines::open(ncnn::Net&, Gpu, const std::string&, const std::string&)
{
    throw Failure("--gpu: this program was built with an ncnn that has no Vulkan");
}

bool Pipelines::load()
{
    return false;
}

void Pipelines::save() const {}

#endif
