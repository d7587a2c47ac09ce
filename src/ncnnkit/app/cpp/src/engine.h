// The network, loaded; and inferences of it, one in each thread.
#pragma once

#include <string>
#include <vector>

#include <net.h>

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
    bool plain = false; // nothing that saves memory: to measure against
};

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
    // Types of layers that the GPU has no kernel for, and which run on the CPU.
    const std::vector<std::string>& without_gpu() const { return without_gpu_; }

private:
    void load(const ModelFiles& files);
    void look_at_layers();

    Settings settings_;
    ncnn::Net net_;
    std::string device_;
    double load_ms_ = 0.0;
    std::vector<std::string> without_gpu_;
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
