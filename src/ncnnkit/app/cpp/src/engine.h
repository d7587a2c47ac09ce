// The network, loaded; and inferences of it, one in each thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <net.h>
#include <pipelinecache.h>

#include "description.h"
#include "model_files.h"

enum class Cluster { all = 0, little = 1, big = 2 }; // as ncnn::set_cpu_powersave numbers them

// Cores of a cluster; 0 where the machine has none like it.
int cores(Cluster cluster);

// Keeps this thread, and the OpenMP threads it starts, on the cores of a cluster. Not for two threads at once.
void stay_on(Cluster cluster);

enum class Gpu { none, real, any }; // any: a software Vulkan device will do

// The device for --gpu. Throws Failure where there is none.
struct GpuDevice {
    int index;
    std::string name;
};
GpuDevice find_gpu(Gpu wanted);

struct Settings {
    const Precision* precision;
    Gpu gpu = Gpu::none;
    int threads = 1;
};

// The version of the ncnn that this program runs with, as 1.0.20260526.
std::string version_of_ncnn();

class Engine {
public:
    // Loads a model; `files` must outlive it. Throws Failure.
    Engine(const ModelFiles& files, const Settings& settings);
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    const ncnn::Net& net() const { return net_; }
    const Settings& settings() const { return settings_; }
    const std::string& device() const { return device_; } // the GPU's name; empty on the CPU
    double load_ms() const { return load_ms_; }
    // Whether the GPU's pipelines came from a file.
    bool warm() const { return warm_; }
    // Whether this ncnn is older than that with which the model was measured.
    bool older() const { return older_; }
    // What is not as it was when the model was measured, a sentence each.
    const std::vector<std::string>& notes() const { return notes_; }

private:
    void load(const ModelFiles& files);
    void compare_with_measured(const ModelFiles& files);

    Settings settings_;
#if NCNN_VULKAN
    std::unique_ptr<ncnn::PipelineCache> pipelines_; // before the network, whose layers use it to their end
#endif
    ncnn::Net net_;
    std::string device_;
    double load_ms_ = 0.0;
    bool warm_ = false, older_ = false;
    std::vector<std::string> notes_;
};

// What one thread needs to run an Engine over and over: pools of memory that are used again.
class Inference {
public:
    explicit Inference(const Engine& engine) : engine_(engine) {}

    // The outputs, in kModel's order; they live until the next call. Throws Failure.
    const std::vector<ncnn::Mat>& run(const ncnn::Mat& input);

private:
    const Engine& engine_;
    ncnn::UnlockedPoolAllocator blobs_; // blobs are made by this thread alone
    ncnn::PoolAllocator workspace_;
    std::vector<ncnn::Mat> outputs_; // after the pools: it lies in them
};

// Throws Failure where an output holds NaN or infinity: a model that overflows, say.
void check_finite(const std::vector<ncnn::Mat>& outputs);
