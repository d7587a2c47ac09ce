#include "model_files.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>
#include <sys/wait.h>
#include <unistd.h>

#include <net.h>

#include "failure.h"
#include "model.h"
#include "tensor.h"

namespace {

std::vector<std::string> words(const std::string& line)
{
    std::istringstream stream(line);
    std::vector<std::string> found;
    for (std::string word; stream >> word;)
        found.push_back(word);
    return found;
}

int number(const std::string& word)
{
    char* end = nullptr;
    const long value = std::strtol(word.c_str(), &end, 10);
    if (end == word.c_str() || *end || value < 0 || value > 1000000)
        throw Failure("'" + word + "' is not a count");
    return static_cast<int>(value);
}

// A layer line's params with plain values, as 0=224.
std::map<std::string, std::string> params(const std::vector<std::string>& layer, std::size_t from)
{
    std::map<std::string, std::string> found;
    for (; from < layer.size(); from++)
        if (const std::size_t equals = layer[from].find('='); equals != std::string::npos)
            found[layer[from].substr(0, equals)] = layer[from].substr(equals + 1);
    return found;
}

void check_input(const std::vector<std::string>& layer)
{
    std::vector<int> shape;
    const auto given = params(layer, 5);
    for (const char* key : {"2", "1", "0"}) // channels, height, width
        if (const auto found = given.find(key); found != given.end() && found->second != "0")
            shape.push_back(number(found->second));
    if (!shape.empty() && kModel.shape.size() <= 3 && shape != kModel.shape)
        throw Failure("takes " + times(shape) + ", this program is for " + times(kModel.shape));
}

// ncnn counts on what a .param says of itself: a wrong count of blobs, say, lets it write beyond its list of them.
void check_param(const std::string& text)
{
    std::istringstream stream(text);
    std::string line;
    const auto next = [&] {
        if (!std::getline(stream, line))
            throw Failure("the file ends too early");
        return words(line);
    };
    if (next() != std::vector<std::string>{"7767517"})
        throw Failure("is not ncnn's .param");
    const std::vector<std::string> counts = next();
    if (counts.size() != 2)
        throw Failure("line 2 must be the counts of layers and blobs");
    const int layers = number(counts[0]), blobs = number(counts[1]);
    std::set<std::string> made;
    for (int i = 0; i < layers; i++) {
        const std::vector<std::string> layer = next();
        const std::string where = "line " + std::to_string(i + 3) + ": ";
        if (layer.size() < 4)
            throw Failure(where + "is no layer");
        const std::size_t inputs = number(layer[2]), outputs = number(layer[3]);
        if (layer.size() < 4 + inputs + outputs)
            throw Failure(where + "blobs are missing");
        for (std::size_t k = 4; k < 4 + inputs; k++)
            if (!made.count(layer[k]))
                throw Failure(where + "no layer above makes blob " + layer[k]);
        for (std::size_t k = 4 + inputs; k < 4 + inputs + outputs; k++)
            if (!made.insert(layer[k]).second)
                throw Failure(where + "blob " + layer[k] + " is made twice");
        if (layer[0] == "Input" && outputs == 1)
            check_input(layer);
    }
    if (static_cast<int>(made.size()) != blobs)
        throw Failure("line 2 says " + counts[1] + " blobs, there are " + std::to_string(made.size()));
    std::vector<std::string> needed = {kModel.input};
    for (const Output& output : kModel.outputs)
        needed.push_back(output.blob);
    for (const std::string& blob : needed)
        if (!made.count(blob))
            throw Failure("has no blob " + blob + ": it is another model than this program is for");
}

std::vector<std::string> lines(const std::string& text)
{
    std::istringstream stream(text);
    std::vector<std::string> found;
    for (std::string line; std::getline(stream, line);)
        found.push_back(line);
    return found;
}

std::string text(const Bytes& bytes)
{
    return std::string(bytes.begin(), bytes.end());
}

// None where there is no such file.
std::vector<std::string> lines_of(const std::string& path)
{
    return lines(text(read_if_there(path)));
}

// What a model is to run with: as the program's own variant, where that is one of those it is the file of; else as the
// first of these. `variants`: see ModelFiles.
std::string precision_of(const std::string& param, const std::vector<std::string>& variants)
{
    std::string first;
    for (const std::string& line : variants) {
        const std::vector<std::string> row = words(line);
        if (row.size() < 4 || row[3] + ".param" != param)
            continue;
        if (row[1] == kModel.precision)
            return row[1];
        if (first.empty())
            first = row[1];
    }
    return first.empty() ? kModel.precision : first;
}

// Lets ncnn read a .param in another process: there are versions of it that crash over a layer or value they do not know.
void try_to_load(const std::string& param)
{
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> log(std::tmpfile(), std::fclose);
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        if (log)
            dup2(fileno(log.get()), 2);
        ncnn::Net* net = new ncnn::Net; // left to the end of the process: it is the destructor that crashes
        _exit(net->load_param_mem(param.c_str()) == 0 ? 0 : 1);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || status == 0)
        return;
    char reason[200] = "";
    if (log) {
        std::rewind(log.get());
        if (std::fgets(reason, sizeof reason, log.get()))
            reason[std::strcspn(reason, "\n")] = '\0';
    }
    throw Failure(std::string("ncnn cannot load it: ") + (reason[0] ? reason : "it gives no reason"));
}

std::string hexadecimal(std::uint32_t number)
{
    char text[9];
    std::snprintf(text, sizeof text, "%08x", static_cast<unsigned>(number));
    return text;
}

// The CRC-32 that `checksums`, lines of CRC and name, give of a file; empty where there is none.
std::string crc_of(const std::string& path, const std::vector<std::string>& checksums)
{
    const std::string name = path.substr(path.rfind('/') + 1);
    for (const std::string& line : checksums)
        if (const std::vector<std::string> row = words(line); row.size() == 2 && row[1] == name)
            return row[0];
    return "";
}

// Throws Failure where a file is not as it was written.
void check_crc(const std::string& path, std::uint32_t found, const std::string& written)
{
    if (!written.empty() && hexadecimal(found) != written)
        throw Failure(path + ": is not the file that was written: its CRC-32 is " + hexadecimal(found) + ", not " + written
                      + "; copy it again, or give --no-check if you changed it");
}

void check(const ModelFiles& files)
{
    try {
        check_param(files.param);
        try_to_load(files.param);
    } catch (const Failure& failure) {
        throw Failure(files.name + ": " + failure.what());
    }
}

} // namespace

void ModelFiles::check_weights(std::uint32_t found) const
{
    check_crc(bin, found, crc);
}

ModelFiles open_model(const std::string& param, const std::string& bin, bool checked)
{
    ModelFiles files;
    files.name = param;
    files.param = text(read_file(param));
    files.folder = param.substr(0, param.rfind('/') + 1); // empty where there is no slash
    files.variants = lines_of(files.folder + "variants.txt");
    if (checked) {
        const std::vector<std::string> checksums = lines_of(files.folder + "checksums.txt");
        Crc32 crc;
        crc.add(reinterpret_cast<const std::uint8_t*>(files.param.data()), files.param.size());
        check_crc(param, crc.value(), crc_of(param, checksums));
        files.crc = crc_of(bin, checksums);
    }
    check(files);
    files.bin = bin;
    files.mapped = std::make_shared<const MappedFile>(bin);
    files.weights = files.mapped->data();
    files.size = files.mapped->size();
    files.labels = lines_of(files.folder + "labels.txt");
    files.precision = precision_of(param.substr(files.folder.size()), files.variants);
    return files;
}

namespace {

// models/ beside this program or in a folder above, as of build/native; empty: there is none.
std::string models_folder()
{
    std::error_code error;
    std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
    for (int up = 0; up < 4; up++, folder = folder.parent_path())
        if (std::filesystem::is_regular_file(folder / "models" / "variants.txt", error))
            return (folder / "models" / "").string();
    return "";
}

} // namespace

#if INFER_EMBED

// The files lie in the program's read-only data, from where ncnn reads the weights in place.
#define EMBED(symbol, path) \
    asm(".section .rodata\n.balign 64\n.global " #symbol "\n" #symbol ":\n.incbin \"" path "\"\n.global " #symbol \
        "_end\n" #symbol "_end:\n.byte 0\n.previous\n"); \
    extern "C" const std::uint8_t symbol[], symbol##_end[];

EMBED(infer_param, INFER_EMBED_PARAM)
EMBED(infer_bin, INFER_EMBED_BIN)
EMBED(infer_labels, INFER_EMBED_LABELS)

ModelFiles own_model(bool)
{
    ModelFiles files;
    files.name = "the embedded model";
    files.param.assign(infer_param, infer_param_end);
    files.weights = infer_bin;
    files.size = static_cast<std::size_t>(infer_bin_end - infer_bin);
    files.labels = lines(std::string(infer_labels, infer_labels_end));
    files.folder = models_folder();
    files.variants = lines_of(files.folder + "variants.txt");
    files.precision = kModel.precision;
    check(files);
    return files;
}

#else

ModelFiles own_model(bool checked)
{
    const std::string model = models_folder() + kModel.stem;
    if (model == kModel.stem)
        throw Failure("models/ is neither beside this program nor above: give MODEL.param MODEL.bin");
    return open_model(model + ".param", model + ".bin", checked);
}

#endif
