#include "engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <unistd.h>

#include <cpu.h>
#include <datareader.h>
#include <gpu.h>
#include <layer.h>

#include "failure.h"
#include "model.h"
#include "tensor.h"

namespace {

// A .param line's param `id`; 0 where it has none.
double value(const std::string& line, const char* id)
{
    const std::size_t at = line.find(std::string(" ") + id + "=");
    return at == std::string::npos ? 0.0 : std::strtod(line.c_str() + at + std::strlen(id) + 2, nullptr);
}

bool sets(const std::string& line, const char* id)
{
    return value(line, id) != 0.0;
}

bool is(const std::string& line, const char* type)
{
    return line.rfind(std::string(type) + " ", 0) == 0;
}

// Whether any layer may hold weights of 8 bits.
bool has_int8(const std::string& param)
{
    constexpr const char* by_param_8[] = {"Convolution", "Deconvolution", "InnerProduct"};
    constexpr const char* by_other_params[] = {"Embed", "GRU", "Gemm", "LSTM", "MultiHeadAttention", "RNN"};
    const auto begins = [](const std::string& line) {
        return [&line](const char* type) { return line.rfind(type, 0) == 0; };
    };
    std::istringstream stream(param);
    for (std::string line; std::getline(stream, line);)
        if ((std::any_of(std::begin(by_param_8), std::end(by_param_8), begins(line)) && sets(line, "8"))
            || std::any_of(std::begin(by_other_params), std::end(by_other_params), begins(line)))
            return true;
    return false;
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
        at_ += size;
        return size;
    }

    size_t left() const { return files_.size - at_; }
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

// ncnn's Vulkan pads int8 blobs with zeros only; a model made for a CPU may ask for other values (pad_value).
bool only_for_cpus(const std::string& param)
{
    std::istringstream stream(param);
    for (std::string line; std::getline(stream, line);)
        if (line.rfind("Convolution", 0) == 0 && sets(line, "8") && sets(line, "18"))
            return true;
    return false;
}

// A mixed model's Casts say what they are handed: values of 16 bits. Where another ncnn, another CPU or another precision
// hands on 32 bits, they would read garbage.
void check_casts(const ModelFiles& files, const ncnn::Net& net, const Settings& settings)
{
    constexpr int fp16 = 2, bf16 = 4; // as Cast numbers them
    constexpr int no_fp16_storage = 2, no_bf16_storage = 4; // bits of a layer's mask, param 31
    std::vector<std::string> lines; // a layer each
    std::vector<std::string> reads; // its first blob
    std::map<std::string, std::size_t> makers; // blob -> layer
    std::istringstream text(files.param);
    std::string line, word;
    std::getline(text, line);
    for (std::getline(text, line); std::getline(text, line);) {
        std::istringstream words(line);
        int inputs = 0, outputs = 0;
        if (!(words >> word >> word >> inputs >> outputs))
            continue;
        reads.emplace_back();
        for (int i = 0; i < inputs && words >> word; i++)
            if (i == 0)
                reads.back() = word;
        for (int i = 0; i < outputs && words >> word; i++)
            makers[word] = lines.size();
        lines.push_back(line);
    }
    for (std::size_t i = 0; i < lines.size(); i++) {
        const int from = is(lines[i], "Cast") ? static_cast<int>(value(lines[i], "0")) : 0;
        if (from != fp16 && from != bf16)
            continue;
        std::size_t maker = makers.at(reads[i]);
        while (is(lines[maker], "Split"))
            maker = makers.at(reads[maker]);
        const ncnn::Layer& layer = *net.layers()[maker];
        const int mask = static_cast<int>(value(lines[maker], "31"));
        const bool handed = from == bf16 ? net.opt.use_bf16_storage && layer.support_bf16_storage && !(mask & no_bf16_storage)
                                         : net.opt.use_fp16_storage && layer.support_fp16_storage
                                               && ncnn::cpu_support_arm_asimdhp() && !(mask & no_fp16_storage);
        if (settings.gpu != Gpu::none || !handed)
            throw Failure(files.name + ": this mixed model is made for another CPU or ncnn, or for --precision=mixed: layer "
                          + layer.name + " does not hand on " + (from == bf16 ? "bf16" : "fp16") + " here");
    }
}

// Newer ncnn has an option of its own for bf16 in packed layouts; where there is none, the second of these is taken.
template <typename Option>
auto allow_packed_bf16(Option& option, bool allowed, int) -> decltype(option.use_bf16_packed = allowed, void())
{
    option.use_bf16_packed = allowed;
}
template <typename Option>
void allow_packed_bf16(Option&, bool, long)
{
}

} // namespace

int cores(Cluster cluster)
{
    switch (cluster) {
    case Cluster::big: return ncnn::get_big_cpu_count();
    case Cluster::little: return ncnn::get_little_cpu_count();
    default: return ncnn::get_cpu_count();
    }
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
    ncnn::Option& option = net_.opt;
    option.num_threads = settings.threads;
    option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = settings.precision->fp16;
    option.use_bf16_storage = settings.precision->bf16;
    allow_packed_bf16(option, settings.precision->bf16, 0);
    option.lightmode = !settings.plain;
    option.use_local_pool_allocator = false; // every Inference has its own
    option.use_vulkan_compute = settings.gpu != Gpu::none;
    if (settings.gpu != Gpu::none) {
        if (only_for_cpus(files.param))
            throw Failure(files.name + ": this int8 model is made for CPUs, and wrong on a GPU: take the run's int8-vulkan variant");
#if NCNN_VULKAN
        const GpuDevice device = find_gpu(settings.gpu);
        device_ = device.name;
        net_.set_vulkan_device(device.index);
#else
        find_gpu(settings.gpu);
#endif
    }
    const auto start = std::chrono::steady_clock::now();
    load(files);
    load_ms_ = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    if (settings.gpu != Gpu::none)
        look_at_layers();
}

void Engine::load(const ModelFiles& files)
{
    Captured captured;
    if (net_.load_param_mem(files.param.c_str()) != 0) // open_model has tried it
        throw Failure(files.name + ": ncnn cannot load it: " + captured.line());
    const bool copying = settings_.plain && !files.bin.empty();
    const WeightReader reader(files);
    const int status = copying ? net_.load_model(files.bin.c_str()) : net_.load_model(reader);
    if (!copying && !reader.fits())
        throw Failure(files.name + ": its .bin is truncated or another model's");
    if (status != 0)
        throw Failure(files.name + ": ncnn cannot load its .bin: " + captured.line());
    if (!copying && reader.left() != 0)
        throw Failure(files.name + ": its .bin is too long by " + std::to_string(reader.left())
                      + " bytes: another model's?");
    reader.release_all();
    check_casts(files, net_, settings_); // layers know what they can do once they are loaded
}

void Engine::look_at_layers()
{
    std::set<std::string> without;
    std::size_t with = 0;
    for (const ncnn::Layer* layer : net_.layers())
        if (layer->support_vulkan)
            with++;
        else if (layer->type != "Input")
            without.insert(layer->type);
    if (with == 0)
        throw Failure("--gpu: ncnn has no Vulkan kernel for any layer of this model: all of it would run on the CPU");
    without_gpu_.assign(without.begin(), without.end());
}

const std::vector<ncnn::Mat>& Inference::run(const ncnn::Mat& input)
{
    ncnn::Extractor extractor = engine_.net().create_extractor();
    if (!engine_.settings().plain) {
        extractor.set_blob_allocator(&blobs_);
        extractor.set_workspace_allocator(&workspace_);
    }
    outputs_.clear();
    extractor.input(kModel.input, input);
    for (const char* name : kModel.outputs) {
        ncnn::Mat output;
        const int status = extractor.extract(name, output);
        if (status != 0 || output.empty())
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
                throw Failure(std::string("output ") + kModel.outputs[i] + " holds NaN or infinity");
}
