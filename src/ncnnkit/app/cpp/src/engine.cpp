#include "engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <unistd.h>

#include <c_api.h>
#include <cpu.h>
#include <datareader.h>
#include <gpu.h>
#include <layer.h>

#include "failure.h"
#include "files.h"
#include "model.h"
#include "storages.h"
#include "tensor.h"

namespace {

// Whether any layer of a .param says so.
template <typename Says>
bool any_layer(const std::string& param, Says says)
{
    std::istringstream stream(param);
    for (std::string line; std::getline(stream, line);)
        if (const Int8Type* type = int8_type(line); type && says(*type, Params(line)))
            return true;
    return false;
}

// Whether any layer holds weights of 8 bits.
bool has_int8(const std::string& param)
{
    return any_layer(param, [](const Int8Type& type, const Params& given) { return given[type.term] != 0.0; });
}

// ncnn's Vulkan pads int8 blobs with zeros only; a model made for a CPU may ask for other values.
bool only_for_cpus(const std::string& param)
{
    return any_layer(param, [](const Int8Type& type, const Params& given) {
        return type.pad_value >= 0 && given[type.term] != 0.0 && given[type.pad_value] != 0.0;
    });
}

// ncnn's own reader of memory does not know where it ends. This one does, and hands out weights where they lie. Beyond the
// end are zeros: older ncnn crashes where loading fails halfway, so that a file is too short is said after all is loaded.
class WeightReader : public ncnn::DataReader {
public:
    explicit WeightReader(const ModelFiles& files) : files_(files), int8_(has_int8(files.param)) {}

    int scan(const char*, void*) const override { return 0; }

    size_t read(void* to, size_t size) const override
    {
        const void* from = nullptr;
        if (reference(size, &from) == size)
            std::memcpy(to, from, size);
        else
            std::memset(to, 0, size);
        // ncnn takes weights of 8 bits for 32 where the .param does not expect them, and reads beyond their end.
        if (size == sizeof kInt8 && std::memcmp(to, &kInt8, size) == 0 && !int8_) {
            foreign_ = true;
            std::memset(to, 0, size);
        }
        return size;
    }

    size_t reference(size_t size, const void** to) const override
    {
        if (size > left()) {
            short_ = true;
            return 0;
        }
        release_behind();
        *to = files_.weights + at_;
        crc_.add(files_.weights + at_, size);
        at_ += size;
        return size;
    }

    size_t left() const { return files_.size - at_; }
    std::uint32_t crc() const { return crc_.value(); } // of what was read
    bool fits() const { return !short_ && !foreign_; }
    void release_all() const
    {
        if (files_.mapped)
            files_.mapped->release(0, files_.size);
    }

private:
    // Most layers pack their weights anew as soon as they have them: the pages need not stay in memory until the end.
    void release_behind() const
    {
        constexpr size_t step = 1 << 20;
        if (!files_.mapped || at_ < released_ + step)
            return;
        files_.mapped->release(released_, at_);
        released_ = at_;
    }

    static constexpr std::uint32_t kInt8 = 0x000D4B38; // before weights of 8 bits

    const ModelFiles& files_;
    const bool int8_;
    mutable size_t at_ = 0, released_ = 0;
    mutable bool short_ = false, foreign_ = false;
    mutable Crc32 crc_;
};

// What ncnn writes to stderr while it lives: the reason, where something fails.
class Captured {
public:
    Captured() : file_(std::tmpfile()), stderr_(file_ ? dup(2) : -1)
    {
        std::fflush(stderr);
        if (stderr_ >= 0)
            dup2(fileno(file_), 2);
    }
    ~Captured() { restore(); }
    Captured(const Captured&) = delete;
    Captured& operator=(const Captured&) = delete;

    // The first line, and no more capturing.
    std::string line()
    {
        char text[200] = "";
        if (file_) {
            std::rewind(file_);
            if (!std::fgets(text, sizeof text, file_))
                text[0] = '\0';
            text[std::strcspn(text, "\n")] = '\0';
        }
        restore();
        return text[0] ? text : "ncnn gives no reason";
    }

private:
    void restore()
    {
        std::fflush(stderr);
        if (stderr_ >= 0) {
            dup2(stderr_, 2);
            close(stderr_);
            stderr_ = -1;
        }
        if (file_) {
            std::fclose(file_);
            file_ = nullptr;
        }
    }

    std::FILE* file_;
    int stderr_;
};

// Whether a version, as 1.0.20260526, is older than another.
bool is_older(const std::string& version, const std::string& other)
{
    const auto numbers = [](const std::string& text) {
        std::vector<long> found;
        std::istringstream stream(text);
        for (std::string part; std::getline(stream, part, '.');)
            found.push_back(std::strtol(part.c_str(), nullptr, 10));
        return found;
    };
    return numbers(version) < numbers(other);
}

std::string this_ncnn()
{
    return "this ncnn, " + version_of_ncnn() + ", ";
}

// Of two functions of a name, the second is taken where this ncnn lacks what the first one uses.

// An option for bf16 in packed layouts: since 2026.
template <typename Option>
auto allow_packed_bf16(Option& option, bool allowed, int) -> decltype(option.use_bf16_packed = allowed, void())
{
    option.use_bf16_packed = allowed;
}
template <typename Option>
void allow_packed_bf16(Option&, bool, long)
{
}

#if NCNN_VULKAN

// Where a model's pipelines are kept: with what else a user's programs can make again. Empty: nowhere.
std::string pipelines_file(const std::string& model, const std::string& precision)
{
    const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
    const std::string folder = cache && *cache ? cache : home && *home ? std::string(home) + "/.cache" : "";
    const std::string name = std::filesystem::path(model).stem().string() + "-" + precision + ".vkcache";
    return folder.empty() ? "" : folder + "/ncnn-infer/" + name;
}

// Pipelines in a file: since 2026-05. ncnn refuses a file that another ncnn, driver or device has written.
template <typename Cache>
auto load_pipelines(const Cache& cache, const Bytes& file, int) -> decltype(cache.load_cache(file.data(), file.size()) == 0)
{
    return cache.load_cache(file.data(), file.size()) == 0;
}
template <typename Cache>
bool load_pipelines(const Cache&, const Bytes&, long)
{
    return false;
}
template <typename Cache>
auto pipelines_of(const Cache& cache, Bytes& file, int) -> decltype(cache.save_cache(file) == 0)
{
    return cache.save_cache(file) == 0;
}
template <typename Cache>
bool pipelines_of(const Cache&, Bytes&, long)
{
    return false;
}

#endif

} // namespace

int cores(Cluster cluster)
{
    switch (cluster) {
    case Cluster::big: return ncnn::get_big_cpu_count();
    case Cluster::little: return ncnn::get_little_cpu_count();
    default: return ncnn::get_cpu_count();
    }
}

std::string version_of_ncnn()
{
#if NCNN_C_API
    return ncnn_version(); // of the library, which may be another than the headers'
#elif defined NCNN_VERSION_STRING
    return NCNN_VERSION_STRING;
#else
    return "of unknown version";
#endif
}

void stay_on(Cluster cluster)
{
    ncnn::set_cpu_powersave(static_cast<int>(cluster));
}

GpuDevice find_gpu(Gpu wanted)
{
#if NCNN_VULKAN
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
        throw Failure("--gpu: the only Vulkan device is the CPU (" + seen + "); --gpu=any takes it all the same");
    throw Failure("--gpu: there is no Vulkan device here: is its driver installed?");
#else
    (void)wanted;
    throw Failure("--gpu: this program was built with an ncnn that has no Vulkan");
#endif
}

Engine::Engine(const ModelFiles& files, const Settings& settings) : settings_(settings)
{
    if (!NCNN_INT8 && has_int8(files.param))
        throw Failure(files.name + ": " + this_ncnn() + "was built without int8 (NCNN_INT8), which the model needs");
    if (!NCNN_BF16 && settings.precision->use_bf16_storage)
        throw Failure(files.name + ": " + this_ncnn() + "was built without bf16 (NCNN_BF16), which --precision="
                      + settings.precision->name + " needs");
    ncnn::Option& option = net_.opt;
    option.num_threads = settings.threads;
    option.use_fp16_packed = settings.precision->use_fp16_packed;
    option.use_fp16_storage = settings.precision->use_fp16_storage;
    option.use_fp16_arithmetic = settings.precision->use_fp16_arithmetic;
    option.use_bf16_storage = settings.precision->use_bf16_storage;
    allow_packed_bf16(option, settings.precision->use_bf16_packed, 0);
    option.lightmode = true;
    option.use_local_pool_allocator = false; // every Inference has its own
    option.use_vulkan_compute = settings.gpu != Gpu::none;
    const auto start = std::chrono::steady_clock::now();
    if (settings.gpu != Gpu::none) {
        if (only_for_cpus(files.param))
            throw Failure(files.name + ": this int8 model is made for CPUs, and wrong on a GPU: take the run's int8-vulkan variant");
        const GpuDevice device = find_gpu(settings.gpu);
        device_ = device.name;
#if NCNN_VULKAN
        net_.set_vulkan_device(device.index);
        pipelines_ = std::make_unique<ncnn::PipelineCache>(ncnn::get_gpu_device(device.index));
        option.pipeline_cache = pipelines_.get();
#endif
    }
    load(files);
    load_ms_ = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    compare_with_measured(files);
}

void Engine::load(const ModelFiles& files)
{
    Captured captured;
#if NCNN_VULKAN
    const std::string file = pipelines_ ? pipelines_file(files.name, settings_.precision->name) : "";
    warm_ = !file.empty() && load_pipelines(*pipelines_, read_if_there(file), 0);
#endif
    if (net_.load_param_mem(files.param.c_str()) != 0) // open_model has tried it
        throw Failure(files.name + ": ncnn cannot load it: " + captured.line());
    const WeightReader reader(files);
    const int status = net_.load_model(reader);
    if (!reader.fits() || status != 0 || reader.left() != 0) { // an altered file fails in many ways
        Crc32 all;
        all.add(files.weights, files.size);
        files.check_weights(all.value());
    }
    if (!reader.fits())
        throw Failure(files.name + ": its .bin is truncated or another model's");
    if (status != 0)
        throw Failure(files.name + ": ncnn cannot load its .bin: " + captured.line());
    if (reader.left() != 0)
        throw Failure(files.name + ": its .bin is too long by " + std::to_string(reader.left())
                      + " bytes: another model's?");
    files.check_weights(reader.crc());
    reader.release_all();
    try { // layers know what they can do once they are loaded
        check_storages(files.param, net_, {settings_.precision->name, files.precision}, settings_.gpu != Gpu::none);
    } catch (const Failure& failure) {
        throw Failure(files.name + ": " + failure.what());
    }
#if NCNN_VULKAN
    Bytes compiled;
    if (!file.empty() && !warm_ && pipelines_of(*pipelines_, compiled, 0))
        write_if_possible(file, compiled);
#endif
}

void Engine::compare_with_measured(const ModelFiles& files)
{
    const bool gpu = settings_.gpu != Gpu::none;
    const std::string version = version_of_ncnn(), here = this_ncnn();
    older_ = *kModel.ncnn && is_older(version, kModel.ncnn);
    if (older_)
        notes_.push_back(here + "is older than " + kModel.ncnn + ", with which the model was measured: answers and times may differ");
    if (gpu && has_int8(files.param) && is_older(version, "1.0.20260617"))
        notes_.push_back(here + "has no int8 kernels for GPUs: int8 layers run on the CPU");
    std::set<std::string> on_cpu;
    bool on_gpu = false, bf16 = false;
    for (const ncnn::Layer* layer : net_.layers()) {
        bf16 = bf16 || layer->support_bf16_storage;
        on_gpu = on_gpu || layer->support_vulkan;
        if (gpu && !layer->support_vulkan && layer->type != "Input")
            on_cpu.insert(layer->type);
    }
    if (gpu && !on_gpu)
        throw Failure("--gpu: ncnn has no Vulkan kernel for any layer of this model: all of it would run on the CPU");
    for (const std::string& type : on_cpu)
        notes_.push_back(here + "has no GPU kernel for layers of type " + type + ": they run on the CPU");
    if (settings_.precision->use_bf16_storage && !gpu && !bf16)
        notes_.push_back(here + "has no bf16 kernel for this CPU: the model runs in fp32");
}

const std::vector<ncnn::Mat>& Inference::run(const ncnn::Mat& input)
{
    ncnn::Extractor extractor = engine_.net().create_extractor();
    extractor.set_blob_allocator(&blobs_);
    extractor.set_workspace_allocator(&workspace_);
    outputs_.clear();
    extractor.input(kModel.input, input);
    for (const auto& [name, _, row] : kModel.outputs) {
        ncnn::Mat output;
        const int status = extractor.extract(name, output);
        if (status == 0 && output.empty() && row > 0)
            output = no_rows(row);
        else if (status != 0 || output.empty())
            throw Failure(std::string("ncnn could not compute blob ") + name + " (status " + std::to_string(status) + ")");
        outputs_.push_back(output);
    }
    return outputs_;
}

void check_finite(const std::vector<ncnn::Mat>& outputs)
{
    for (std::size_t i = 0; i < outputs.size(); i++)
        for (float value : values_of(outputs[i]))
            if (!std::isfinite(value))
                throw Failure(std::string("output ") + kModel.outputs[i].blob + " holds NaN or infinity");
}
