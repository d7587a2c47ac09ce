// infer: runs the model on one input, or on many (streams.h).
#include <cstdio>

#include "engine.h"
#include "failure.h"
#include "input.h"
#include "options.h"
#include "predictor.h"
#include "report.h"
#include "selftest.h"
#include "streams.h"

namespace {

int run(const std::vector<std::string>& arguments)
{
    const Options options = parse(arguments);
    if (options.help) {
        std::fputs(kUsage, stdout);
        return 0;
    }
    const ModelFiles files = options.param.empty() ? own_model(options.checked) : open_model(options.param, options.bin, options.checked);
    const Settings settings = settings_of(options, files);
    if (options.self_test)
        return self_test(options, settings, files);
    if (options.streams)
        return stream(options, settings, files);

    // The input first: what is wrong with it shows before a large model is loaded.
    const Input input = read_input(options.input, {}, options.tile);
    stay_on(options.cluster);
    const Engine engine(files, settings);
    Predictor predict(engine);
    const Timed timed = predict.timed(input, options.loop);
    const Prediction found = predict(input);
    save(found, input, timed, options, files);
    tell(found, timed, engine, options, files);
    return 0;
}

} // namespace

int main(int count, char** arguments)
{
    int status = 1;
    try {
        status = run({arguments + 1, arguments + count});
    } catch (const UsageError& error) {
        std::fprintf(stderr, "infer: %s\n", error.what());
        status = 2;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "infer: %s\n", error.what());
    }
#if NCNN_VULKAN
    ncnn::destroy_gpu_instance();
#endif
    return status;
}
